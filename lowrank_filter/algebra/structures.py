"""What a precision keeps of a network, or of a part of one."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from lowrank_filter.algebra.partition import Layer
from lowrank_filter.algebra.truncation import Metric, Residual
from lowrank_filter.common import checks

Couples = Literal["network", "layer", "unit"]


@dataclasses.dataclass(frozen=True)
class LowRank:
    """diag(d) + W Wᵀ with ``rank`` directions: memory (k + 1)·D.

    Attributes:
        rank: k, in the whole part or in each of its blocks; 0 keeps a diagonal only. With as many as a part has
            parameters nothing is truncated; :class:`Dense` then takes fewer numbers.
        residual: "diagonal" adds the diagonal of what is truncated to d, so that diag(P) stays exact; "drop" does not.
        metric: of the truncations, "relative" (KL-optimal) or "euclidean"; see :func:`truncate`.
        blocks: "network" couples all parameters of the part; "layer" those of a kernel with its bias, "unit" those that
            lead to one output of a layer. Parameters of no layer are one block for each container.
        layers: the layers, where :func:`find_layers` does not find them by its rules; with blocks only.

    Raises:
        ValueError: ``rank`` is not a static integer ≥ 0, or a choice is unknown.
    """

    rank: int
    residual: Residual = "diagonal"
    metric: Metric = "relative"
    blocks: Couples = "network"
    layers: Sequence[Layer] | None = None

    def __post_init__(self) -> None:
        """Checked where it is written."""
        checks.rank(self.rank)
        checks.choice("residual", self.residual, ("diagonal", "drop"))
        checks.choice("metric", self.metric, ("relative", "euclidean"))
        checks.choice("blocks", self.blocks, ("network", "layer", "unit"))
        if self.blocks == "network" and self.layers is not None:
            raise ValueError(
                'layers: expected blocks="layer" or blocks="unit" with it, got "network"; leave layers out, '
                "since that has none"
            )
        object.__setattr__(self, "layers", _hashable(self.layers))


@dataclasses.dataclass(frozen=True)
class Dense:
    """Every entry of P, by its square root: exact, for a last layer. Memory D² numbers, work D³ a step.

    Attributes:
        at_most: the number of parameters beyond which it is refused.

    Raises:
        ValueError: ``at_most`` is not a static integer ≥ 1.
    """

    at_most: int = 2_000

    def __post_init__(self) -> None:
        """Checked where it is written."""
        checks.count("at_most", self.at_most, minimum=1)


@dataclasses.dataclass(frozen=True)
class Diagonal:
    """diag(d): memory D."""


@dataclasses.dataclass(frozen=True)
class KroneckerFactored:
    """A Kronecker-factored eigenbasis for each dense or convolution layer, see :class:`Kronecker`; a diagonal for the
    parameters of no layer.

    Attributes:
        shared: how the curvature of weights shared over positions (convolutions, sequences) is factored: "expand"
            counts every position as an example, "reduce" takes their mean input and summed gradient (Eschenhagen et
            al. 2023, arXiv 2311.00636).
        layers: the layers, where :func:`find_layers` does not find them by its rules.

    Raises:
        ValueError: ``shared`` is unknown.
    """

    shared: Literal["expand", "reduce"] = "expand"
    layers: Sequence[Layer] | None = None

    def __post_init__(self) -> None:
        """Checked where it is written."""
        checks.choice("shared", self.shared, ("expand", "reduce"))
        object.__setattr__(self, "layers", _hashable(self.layers))


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Infinite precision: the parameters stay where they are. No memory beside their values, and no gradient."""


Structure = LowRank | Dense | Diagonal | KroneckerFactored | Frozen

# What a user types first, for a network as a whole.
NAMES = ("network", "layer", "unit", "kronecker")


def is_structure(value: Any) -> bool:
    """Whether it is one of these."""
    return isinstance(value, Structure)


def _hashable(layers: Any) -> Any:
    if not (layers is None or isinstance(layers, list | tuple)) or isinstance(layers, Layer):
        raise TypeError(f"layers: expected a sequence of Layer, got {type(layers).__name__}; see find_layers(params)")
    return tuple(layers) if isinstance(layers, list) else layers
