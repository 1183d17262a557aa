"""Fashion-MNIST getting darker, a small CNN: which weights may drift, and what it costs to be wrong about it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments import methods, tasks
from experiments.comparison import compare
from experiments.data.mnist import fashion_mnist
from experiments.methods import Hyper, Method, by_evidence, filtering, follow
from experiments.methods.evidence import layered
from experiments.networks import cnn
from experiments.presets import Experiment
from experiments.results import Pair
from experiments.sequences.shifts import smaller
from experiments.structures import Form, Structure

Noise = Callable[[Any, Hyper], Any]


def scalar(params: Any, hyper: Hyper) -> Any:
    """The same for all weights."""
    return layered(params, lambda _: hyper["noise"])


def on(word: str) -> Noise:
    """On the layers that are called so, none on the others."""

    def noise(params: Any, hyper: Hyper) -> Any:
        return {
            collection: {name: hyper["noise"] * (word in name) for name in layers}
            for collection, layers in params.items()
        }

    return noise


def relative(params: Any, hyper: Hyper) -> Any:
    """α·mean θ² of each layer."""

    def mean_square(layer: Any) -> Any:
        leaves = jax.tree.leaves(layer)
        return sum(jnp.sum(leaf**2) for leaf in leaves) / sum(leaf.size for leaf in leaves)

    return layered(params, lambda layer: hyper["noise"] * mean_square(layer))


NOISES: Mapping[str, Noise] = {
    "scalar": scalar,
    "convolutions": on("Conv"),
    "dense": on("Dense"),
    "relative": relative,
}
"""Ways to spread the hyperparameter ``noise`` over the layers."""


@dataclasses.dataclass(frozen=True)
class NoiseStructure(Experiment):
    """Gradual brightness with a CNN: no noise, the same for all, on some layers, relative, or by the evidence."""

    published: ClassVar[Mapping[str, Any]] = {"seeds": 5, "steps": 500, "noises": (1e-4, 1e-3, 1e-2, 1e-1, 1.0)}

    seeds: int = 3
    """Number of seeds: each has other images and starting weights."""
    train: int = 750
    """Training images a task."""
    steps: int = 200
    """Gradient steps a task."""
    side: int = 14
    """Pixels along each side of an image."""
    darkest: float = 0.2
    """The light of the last task; the first has 1."""
    noises: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    """Process noise to choose from; for the relative one, ten times as much."""
    structure: Form = "kronecker"
    """Structure of the filter's precision."""
    rank: int = 10
    """Directions kept by a low-rank filter."""

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        seeds = range(self.seeds)
        sizes = {"train": self.train, "val": 500, "test": 1000}
        rates = {"learning_rate": (3e-3,)}
        # The evidence is the model's at curvature scale 1 alone, so all are held to that.
        fixed = rates | {"prior": (1.0,), "curvature": (1.0,)}
        structure = Structure(self.structure, self.rank)
        parts = tasks.brightness(fashion_mnist(), [float(light) for light in np.linspace(1, self.darkest, 5)])

        def reports(name: str) -> dict[str, str]:
            return {name: "last", f"{name}_own": "own"}

        compare(
            "noise",
            "Fashion-MNIST getting darker, by structure of the process noise: test accuracy, %",
            methods=(
                Method(reports("none"), fixed | {"noise": (0.0,)}, follow(filtering(structure))),
                *(
                    Method(
                        reports(name),
                        fixed | {"noise": tuple((10 if name == "relative" else 1) * q for q in self.noises)},
                        follow(filtering(structure, noise=noise)),
                    )
                    for name, noise in NOISES.items()
                ),
                Method(reports("evidence"), fixed | {"noise": self.noises[1:2]}, follow(by_evidence(structure))),
                Method({"sequential": "last"}, rates, follow(methods.sequential)),
                Method({"joint": "joint"}, rates, methods.joint),
            ),
            network=cnn(self.side, 10),
            training=methods.Training(self.steps, 150, None),
            tasks=tasks.sequence([smaller(part, self.side) for part in parts], **sizes, seeds=seeds),
            seeds=seeds,
            settings=sizes | {"side": self.side, "darkest": self.darkest, "structure": self.structure},
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
            output=self.output,
            console=console,
        )
