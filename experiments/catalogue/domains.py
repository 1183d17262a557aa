"""Photos, art, cartoons, sketches: what filters keep of a residual network or a transformer as the domain shifts."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from rich.console import Console

from experiments.continual import learners, tasks
from experiments.continual.comparison import Comparison
from experiments.continual.families import REPORTS, UNSEEN, looking_back, reports
from experiments.continual.learners import Hyper, Method, filtering, follow, osla
from experiments.continual.networks import Network, resnet18, vit
from experiments.continual.structures import Structure
from experiments.continual.summary import Pair
from experiments.data.cifar import cifar10, cifar100
from experiments.data.pacs import pacs
from experiments.run.options import Count, Natural, NonNegative, Positive

DOMAINS = ("photo", "art_painting", "cartoon", "sketch")
"""In the order of their tasks: each is further from a photo."""
SIDE = 32
EARLY: Mapping[str, tuple[str, ...]] = {
    "resnet18": ("_Conv_0", "GroupNorm_0", "stage1", "stage2"),
    "vit": (
        *("position", "Dense_0", "Dense_1", "Dense_2", "LayerNorm_0", "LayerNorm_1"),
        "MultiHeadDotProductAttention_0",
    ),
}
"""How the names of the layers of each network's first half begin."""
Name = Literal["resnet18", "vit"]
Set = Literal["pacs", "cifar10", "cifar100"]
TITLES: Mapping[Set, str] = {
    "pacs": "PACS from photos to sketches",
    "cifar10": "CIFAR-10 two classes at a time",
    "cifar100": "CIFAR-100 ten classes at a time",
}
Part = Literal["early", "late", "relative"]
PARTS: tuple[Part, ...] = ("early", "late", "relative")
UNSEEN_TASK = 1
"""Art, between photos and cartoons."""


def spread(part: Part, early: tuple[str, ...]) -> Callable[[Any, Hyper], Any]:
    """q of each layer or block: on the network's first or second half, or times its mean θ²."""

    def one(name: str, layer: Any, noise: Any) -> Any:
        if part == "relative":
            leaves = jax.tree.leaves(layer)
            return noise * sum(jnp.sum(leaf**2) for leaf in leaves) / sum(leaf.size for leaf in leaves)
        return noise * float(name.startswith(early) == (part == "early"))

    def noise(params: Any, hyper: Hyper) -> Any:
        return {"params": {name: one(name, layer, hyper["noise"]) for name, layer in params["params"].items()}}

    return noise


def centred(network: Network) -> Network:
    """Of (x − 1/2)/(1/4) with pixels x in [0, 1], from which it learns faster; and its methods share programs."""
    return Network(network.init, lambda params, x: network.apply(params, 4 * x - 2), side_by_side=False)


@dataclasses.dataclass(frozen=True)
class Domains(Comparison):
    """PACS domain after domain, or split CIFAR: what is kept, looked back on, filled in, and where noise belongs.

    PACS has to be put into the folder that WEIGHTFILTER_DATA names; CIFAR is downloaded. The preset minutes takes
    thirteen minutes on two cores, the defaults several times that; in either the networks are far from trained.
    """

    by_hand: ClassVar = True
    presets: ClassVar = {
        "minutes": {"seeds": 1, "steps": 80, "strengths": (30.0,)},
        "published": {
            "seeds": 5,
            "width": 64,
            "stride": 1,
            "steps": 2000,
            "batch": 128,
            "curvature_examples": 900,
            "test": 500,
            "noises": (0.0, 1e-4, 1e-3, 1e-2),
            "strengths": (1.0, 10.0, 100.0),
            "networks": tuple(EARLY),
        },
    }

    images: Set = "pacs"
    """PACS, or CIFAR-10 or -100 two or ten classes at a time that share their outputs."""
    networks: tuple[Name, ...] = ("resnet18",)
    """Which of resnet18 and vit."""
    seeds: Count = 2
    """Number of seeds: each has other images and starting weights."""
    width: Count = 16
    """Channels of the first stage of ResNet-18 (64 in the paper), and of a token of the transformer."""
    stride: Count = 2
    """Of ResNet-18's first convolution."""
    train: Count = 900
    """Training images a task."""
    test: Count = 300
    """Test images a task, at most 501."""
    steps: Count = 120
    """Gradient steps a task; the rate falls linearly to zero within it."""
    batch: Count = 16
    """Images a gradient step."""
    curvature_examples: Count = 100
    """Images of a task in its curvature."""
    rank: Natural = 10
    """Directions kept by the low-rank filter."""
    strengths: tuple[Positive, ...] = (3.0, 30.0)
    """Strengths of the anchor and curvature scales to choose from; where noise is compared, the first."""
    noises: tuple[NonNegative, ...] = (0.0, 1e-3)
    """Process noise to choose from; where it is structured, from what is not zero; relative, ten times as much."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        sizes = {"train": self.train, "val": 180, "test": self.test}
        sequence = tasks.sequence(parts(self.images), **sizes, seeds=range(self.seeds))
        classes = 1 + int(max(sequence.train_y.max(), sequence.test_y.max()))
        networks = {
            "resnet18": lambda: resnet18(SIDE, classes, width=self.width, stride=self.stride),
            "vit": lambda: vit(SIDE, classes, patch=4, width=self.width, colours=3),
        }
        for name in self.networks:
            self.compare(
                console,
                f"domains-{self.images}-{name}",
                f"{TITLES[self.images]}, {name} of width {self.width}: test accuracy, %",
                methods=self.methods(EARLY[name]),
                network=centred(networks[name]()),
                training=learners.Training(
                    self.steps, self.batch, min(self.curvature_examples, self.train), decay=True
                ),
                tasks=sequence,
                settings=sizes | {"network": name},
                pairs=self.pairs(),
            )

    def methods(self, early: tuple[str, ...]) -> Sequence[Method]:
        """Baselines, filters, a filter that never saw the second task, and four places for the noise."""
        rates = {"learning_rate": (1e-3,)}
        fixed = rates | {"prior": (1.0,)}
        curved = fixed | {"curvature": self.strengths}
        one = fixed | {"curvature": self.strengths[:1]}
        drifting = tuple(noise for noise in self.noises if noise)
        filters = {"ewc": Structure("network", 0), "filter": Structure("network", self.rank)}
        kronecker = Structure("kronecker")
        everywhere = follow(filtering(kronecker))
        structured = [
            Method(
                {part: "last", f"{part}_own": "own"},
                one | {"noise": tuple(10 * noise for noise in drifting) if part == "relative" else drifting},
                run,
            )
            for part, run in (
                ("scalar", everywhere),
                *((part, follow(filtering(kronecker, noise=spread(part, early)))) for part in PARTS),
            )
        ]
        unseen = Method(
            reports("kronecker", UNSEEN),
            curved | {"noise": drifting},
            follow(filtering(kronecker), UNSEEN_TASK),
            (UNSEEN_TASK,),
        )
        return (
            Method({"sequential": "last"}, rates, follow(learners.sequential)),
            Method({"anchor": "last"}, fixed | {"strength": self.strengths}, follow(learners.anchor)),
            *(Method({name: "last"}, curved, follow(filtering(structure))) for name, structure in filters.items()),
            Method({"osla": "last"}, curved, follow(osla())),
            Method(reports("kronecker", REPORTS), curved | {"noise": self.noises}, everywhere),
            *([unseen] if self.images == "pacs" else []),
            *structured,
            Method({"alone": "own"}, rates, follow(learners.alone)),
            Method({"joint": "joint"}, rates, learners.joint),
        )

    def pairs(self) -> list[Pair]:
        """What the claims rest on."""
        unseen = looking_back("kronecker_", UNSEEN_TASK) if self.images == "pacs" else []
        return [
            *(Pair("kronecker_filter_last", other) for other in ("sequential", "anchor", "ewc", "osla", "filter")),
            *unseen,
            *(Pair(f"{part}{kind}", f"scalar{kind}") for part in PARTS for kind in ("", "_own")),
        ]


def parts(images: Set) -> list[tasks.Part]:
    """One part for each task."""
    if images == "pacs":
        domains = pacs()
        return [tasks.Part(name.removesuffix("_painting"), domains[name]) for name in DOMAINS]
    published, classes, each = (cifar10(), 10, 2) if images == "cifar10" else (cifar100(), 100, 10)
    return tasks.split(published, [range(first, first + each) for first in range(0, classes, each)], labels="position")
