"""MNIST as a contextual bandit: only the chosen arm's reward is seen."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from rich.console import Console

from experiments.continual.networks import lenet
from experiments.continual.online import comparison
from experiments.continual.online.comparison import METHODS, THOMPSON, Case, OnlineComparison
from experiments.continual.online.filters import REWARDS
from experiments.continual.online.interface import Hyper, Online, rewards
from experiments.continual.online.stream import Steps
from experiments.data.mnist import mnist
from experiments.run.experiment import Arrays, Content
from experiments.run.options import Count
from experiments.run.report import Table

INTRODUCTION = """MNIST as a contextual bandit, made by `python -m experiments bandit`: {steps:,} images one by one,
{seeds} shuffles with other starting weights. A method picks one of ten classes, is told whether it was right (reward 1
or 0) and nothing else, and LeNet (6-16-120-84-10) learns from that output alone. *thompson*: the arm with the highest
draw of the outputs; *epsilon*: the highest output, and with probability .05 any arm. Settings are chosen for each
method alike, by the reward over the last half of {search:,} test images, under Thompson sampling where there is a
posterior; milliseconds are CPU time of a step, the choice of an arm included. LRKF, HiLoFi and LoLoFi (arXiv
2506.11898) are written anew after their authors' code; LO-FI (arXiv 2305.19535) is a plain step of this library. Grids
of all methods, and Gaussian rewards, were chosen by passes in other orders, which are not scored here."""

PUBLISHED = 40_000, {"HiLoFi": 31_168, "LoLoFi": 30_039, "LRKF": 28_355, "LO-FI": 23_185, "AdamW": 13_922}
EPSILON = 0.05
POLICIES = (THOMPSON, "epsilon")


def step(online: Online, settings: Hyper, state: Any, item: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
    """Choose an arm, then learn from its reward."""
    x = item["x"][None]
    outputs = online.outputs(state, x)[0]
    for_draw, for_epsilon, for_arm = jax.random.split(item["key"], 3)
    anywhere = jax.random.bernoulli(for_epsilon, EPSILON)
    arm = jnp.where(anywhere, jax.random.randint(for_arm, (), 0, len(outputs)), jnp.argmax(outputs))
    if online.draw is not None:
        draw = online.draw
        arm = jax.lax.cond(
            settings[THOMPSON], lambda: jnp.argmax(draw(state, for_draw, x)[0]).astype(arm.dtype), lambda: arm
        )
    reward = arm == item["y"]
    state, diverged = online.update(state, (x, arm[None]), reward.astype(x.dtype)[None, None])
    return state, {"value": reward, "diverged": diverged}


def scores(kept: Steps) -> dict[str, float]:
    """The sum of rewards."""
    return {"reward": float(np.sum(kept["value"]))}


@dataclasses.dataclass(frozen=True)
class Bandit(OnlineComparison):
    """LeNet learns which digit is right from the chosen arm's reward: Thompson sampling, and ε-greedy."""

    known: ClassVar = METHODS | REWARDS
    presets: ClassVar = {
        "published": {"seeds": 10, "steps": 40_000, "search": 5_000, "ranks": (50,)},
        "minutes": {},
        "small": {"seeds": 2, "steps": 1_000, "search": 200, "ranks": (10,)},
    }

    steps: Count = 6_000
    """Images of each."""
    ranks: tuple[Count, ...] = (20,)
    """Directions kept by the filters."""
    methods: tuple[str, ...] = tuple(known)
    """Only these methods."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        given = {name: getattr(self, name) for name in ("steps", "seeds", "search")}
        case = Case(rewards(lenet(10)), lambda x: (x, jnp.arange(len(x)) % 10), step, scores)
        introduction = INTRODUCTION.format(**given)
        self.compare(console, "bandit", "MNIST as a bandit", introduction, case, mnist(), POLICIES)

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """Scores under each policy, whom our filters are ahead of, what was chosen, and what was published."""
        columns = {
            "reward": ("reward", 1, ",.0f"),
            "milliseconds": ("ms a step", 1, ".3g"),
            "diverged": ("steps diverged", 1, ".3g"),
        }
        parts: dict[str, Table | str] = {"scores": comparison.score_table(content, columns)}
        for policy in POLICIES:
            parts[f"verdicts-{policy}"] = comparison.verdicts(content, "reward", 1, f"reward by {policy}", policy)
        published = comparison.published(content, cls.known, *PUBLISHED, "cumulative reward")
        return parts | {"chosen": comparison.chosen_table(content), "published": published}

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """Every shuffle's reward, and along the stream."""
        return {
            policy: lambda policy=policy: comparison.drawn(content, policy, "reward", 1, "cumulative reward")
            for policy in POLICIES
        }
