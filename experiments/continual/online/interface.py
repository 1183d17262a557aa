"""What learns from one example at a time: pure functions of a state."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

import lowrank_filter as lf
from experiments.continual.networks import Network

Tree = Any
Hyper = Mapping[str, Any]


class Problem(NamedTuple):
    """What is learned.

    Attributes:
        network: its ``apply`` gives all outputs [B, C]; its parameters have a body and a head.
        observed: (params, seen) → the outputs that a target is of, [B, c].
        likelihood: of a target given those.
    """

    network: Network
    observed: Callable[[Tree, Any], Float[Array, "B c"]]
    likelihood: lf.Likelihood


def labels(network: Network) -> Problem:
    """The class of an image; what is seen is the image."""
    return Problem(network, network.apply, lf.Categorical())


def rewards(network: Network) -> Problem:
    """Whether the chosen arm was right; what is seen is an image and an arm, (x [B, d], arm [B]).

    One output is observed, so that a step needs one row of the Jacobian and not C.
    """

    def observed(params: Tree, seen: tuple[Float[Array, "B d"], Int[Array, " B"]]) -> Float[Array, "B 1"]:
        return jnp.take_along_axis(network.apply(params, seen[0]), seen[1][:, None], axis=1)

    return Problem(network, observed, lf.Bernoulli())


class Online(NamedTuple):
    """A method with its settings.

    Attributes:
        init: (params, seen by the first examples) → state.
        outputs: (state, x) → outputs [B, C] at the state's parameters.
        update: (state, seen, target) → (state, whether it could not take the example).
        draw: (state, key, x) → a draw of the outputs of one step ahead [B, C]; None without a posterior.
    """

    init: Callable[[Tree, Any], Any]
    outputs: Callable[[Any, Float[Array, "B d"]], Float[Array, "B C"]]
    update: Callable[[Any, Any, Array], tuple[Any, Bool[Array, ""]]]
    draw: Callable[[Any, Key[Array, ""], Float[Array, "B d"]], Float[Array, "B C"]] | None = None


class Method(NamedTuple):
    """A family of methods and the settings to choose from: six for each that has any.

    Attributes:
        build: (problem, rank, settings) → method; settings are traced.
        grid: the values of each setting.
        ranked: whether it has a rank.
        draws: whether it has a posterior to draw from.
    """

    build: Callable[[Problem, int, Hyper], Online]
    grid: Mapping[str, tuple[float, ...]]
    ranked: bool = True
    draws: bool = True
