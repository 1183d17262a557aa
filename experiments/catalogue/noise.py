"""Fashion-MNIST getting darker, a small CNN: which weights may drift, and what it costs to be wrong about it."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.continual import learners, tasks
from experiments.continual.comparison import Comparison
from experiments.continual.learners import Hyper, Method, by_evidence, filtering, follow
from experiments.continual.networks import cnn
from experiments.continual.structures import Form, Structure
from experiments.continual.summary import Pair
from experiments.data.mnist import fashion_mnist
from experiments.run.options import Count, Natural, NonNegative, Positive

Grid = dict[str, tuple[float, ...]]


def noise(params: Any, hyper: Hyper) -> Any:
    """q of each layer: switched on for convolutions and for dense layers; times the layer's mean θ² if relative."""

    def one(name: str, layer: Any) -> Any:
        leaves = jax.tree.leaves(layer)
        square = sum(jnp.sum(leaf**2) for leaf in leaves) / sum(leaf.size for leaf in leaves)
        switch = hyper["convolutions"] if "Conv" in name else hyper["dense"]
        return hyper["noise"] * switch * jnp.where(hyper["relative"] > 0, square, 1.0)

    return {
        collection: {name: one(name, layer) for name, layer in layers.items()} for collection, layers in params.items()
    }


def switched(noises: tuple[float, ...], convolutions: bool, dense: bool, relative: bool) -> Grid:
    """The grid of one way to spread noise over the layers."""
    switches = {"convolutions": convolutions, "dense": dense, "relative": relative}
    return {"noise": noises, **{name: (float(on),) for name, on in switches.items()}}


@dataclasses.dataclass(frozen=True)
class NoiseStructure(Comparison):
    """Gradual brightness with a CNN: no noise, the same for all, on some layers, relative, or by the evidence."""

    presets: ClassVar = {
        "published": {
            "seeds": 5,
            "steps": 500,
            "noises": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
            "channels": (32, 16, 4),
            "curvature_examples": 750,
        }
    }

    seeds: Count = 3
    """Number of seeds: each has other images and starting weights."""
    train: Count = 750
    """Training images a task."""
    channels: tuple[Count, ...] = (8, 8, 4)
    """Of the convolutions."""
    curvature_examples: Count = 250
    """Images of a task in its curvature."""
    steps: Count = 300
    """Gradient steps a task; the rate falls linearly to zero within it."""
    side: Count = 14
    """Pixels along each side of an image."""
    darkest: Positive = 0.2
    """The light of the last task; the first has 1."""
    noises: tuple[NonNegative, ...] = (1e-3, 1e-2, 1e-1)
    """Process noise to choose from; for the relative one, ten times as much."""
    structure: Form = "kronecker"
    """Structure of the filter's precision."""
    rank: Natural = 10
    """Directions kept by a low-rank filter."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        seeds = range(self.seeds)
        sizes = {"train": self.train, "val": 500, "test": 1000}
        rates = {"learning_rate": (1e-2,)}
        # The evidence is the model's at curvature scale 1 alone, so all are held to that.
        fixed = rates | {"prior": (1.0,), "curvature": (1.0,)}
        structure = Structure(self.structure, self.rank)
        parts = tasks.brightness(fashion_mnist(), [float(light) for light in np.linspace(1, self.darkest, 5)])

        grids = {
            "none": switched((0.0,), convolutions=True, dense=True, relative=False),
            "scalar": switched(self.noises, convolutions=True, dense=True, relative=False),
            "convolutions": switched(self.noises, convolutions=True, dense=False, relative=False),
            "dense": switched(self.noises, convolutions=False, dense=True, relative=False),
            "relative": switched(tuple(10 * q for q in self.noises), convolutions=True, dense=True, relative=True),
        }
        run = follow(filtering(structure, noise=noise))

        def reports(name: str) -> dict[str, str]:
            return {name: "last", f"{name}_own": "own"}

        self.compare(
            console,
            "noise" if self.darkest == NoiseStructure.darkest else f"noise-{self.darkest:g}",
            "Fashion-MNIST getting darker, by structure of the process noise: test accuracy, %",
            methods=(
                *(Method(reports(name), fixed | grid, run) for name, grid in grids.items()),
                Method(reports("evidence"), fixed | {"noise": self.noises[1:2]}, follow(by_evidence(structure))),
                Method({"sequential": "last"}, rates, follow(learners.sequential)),
                Method(
                    {"anchor": "last"},
                    rates | {"prior": (1.0,), "strength": (3.0, 30.0, 300.0)},
                    follow(learners.anchor),
                ),
                Method({"joint": "joint"}, rates, learners.joint),
            ),
            network=cnn(self.side, 10, channels=self.channels),
            training=learners.Training(self.steps, 75, min(self.curvature_examples, self.train), decay=True),
            tasks=tasks.sequence([tasks.smaller(part, self.side) for part in parts], **sizes, seeds=seeds),
            settings=sizes
            | {"channels": self.channels, "side": self.side, "darkest": self.darkest, "structure": self.structure},
            pairs=[
                Pair(f"{better}{kind}", f"{worse}{kind}")
                for kind in ("", "_own")
                for better, worse in (
                    ("convolutions", "scalar"),
                    ("convolutions", "dense"),
                    ("convolutions", "none"),
                    ("relative", "scalar"),
                    ("evidence", "scalar"),
                    ("evidence", "convolutions"),
                )
            ],
        )
