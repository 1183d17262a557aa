"""Beliefs about parameters, and what can be asked of one without data."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

from lowrank_filter.algebra import blocks as block_diagonal
from lowrank_filter.algebra import kronecker, storage, tree, widths
from lowrank_filter.algebra.diag_low_rank import DiagLowRank, Joined
from lowrank_filter.algebra.operations import OPERATIONS
from lowrank_filter.algebra.partition import Layer, layout
from lowrank_filter.algebra.precision import Precision
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled
from lowrank_filter.kernels.prior import Scaled


class Belief(NamedTuple):
    """θ ~ N(mean, precision⁻¹).

    Attributes:
        mean: m, a pytree of floating-point arrays: the parameters of a network.
        precision: P, for instance a :class:`DiagLowRank`.
    """

    mean: Tree
    precision: Precision

    def __repr__(self) -> str:
        """Its size and kind, no numbers; as a tuple where what it holds are no arrays."""
        try:
            return f"Belief({tree.described(self.mean)}, rank={self.precision.rank}, {type(self.precision).__name__})"
        except (AttributeError, TypeError):
            return f"Belief(mean={self.mean!r}, precision={self.precision!r})"


def init(
    params: Tree,
    precision: Tree | Scaled = 1.0,
    *,
    rank: int,
    blocks: Literal["network", "layer", "unit"] = "network",
    layers: Sequence[Layer] | None = None,
) -> Belief:
    """N(params, diag(precision)⁻¹) with room for ``rank`` directions, in the whole network or in each of its blocks.

    Args:
        params: the prior mean, any pytree of floating-point arrays.
        precision: the prior precision in units of 1/θ²: a positive scalar, a pytree prefix of ``params`` (a scalar
            per layer, an array per parameter), or the network's own, :func:`scaled`.
        rank: k, static; 0 keeps a diagonal only.
        blocks: "network" couples all parameters; "layer" those of a kernel with its bias, "unit" those that lead to one
            output of a layer. Parameters of no layer are one block for each container. All take k numbers a parameter.
        layers: the layers, where :func:`find_layers` does not find them by its rules.

    Raises:
        TypeError: a leaf of ``params`` is not floating point.
        ValueError: ``params`` is empty, ``precision`` is not a prefix or not positive, ``rank`` is negative, ``blocks``
            is unknown, ``layers`` do not fit the parameters.

    Examples:
        >>> belief = lf.init({"w": jnp.zeros((3, 2))}, precision=4.0, rank=1)
        >>> belief.precision.diag["w"].shape, belief.precision.factor["w"].shape
        ((3, 2), (1, 3, 2))
    """
    checks.rank(rank)
    checks.choice("blocks", blocks, ("network", "layer", "unit"))
    mean, diag = _prior(params, precision)
    if blocks == "network":
        if layers is not None:
            raise ValueError(
                'layers: expected blocks="layer" or blocks="unit" with it, got "network"; leave layers out, '
                "since that has none"
            )
        return Belief(mean, DiagLowRank(diag, tree.zeros(mean, rank)))
    return Belief(mean, block_diagonal.diagonal(diag, rank, layout(mean, layers, blocks)))


def kronecker_init(
    params: Tree,
    precision: Tree | Scaled = 1.0,
    *,
    shared: Literal["expand", "reduce"] = "expand",
    layers: Sequence[Layer] | None = None,
) -> Belief:
    """N(params, diag(precision)⁻¹) with a Kronecker-factored precision for each dense or convolution layer.

    Every kernel takes it as it takes the others; see :class:`Kronecker` for the equations. Parameters of no layer have
    a diagonal.

    Args:
        params: the prior mean, any pytree of floating-point arrays.
        precision: the prior precision in units of 1/θ², as in :func:`init`.
        shared: how the curvature of weights shared over positions (convolutions, sequences) is factored: "expand"
            counts every position as an example, "reduce" takes their mean input and summed gradient (Eschenhagen et
            al. 2023, arXiv 2311.00636).
        layers: the layers, where :func:`find_layers` does not find them by its rules.

    Raises:
        TypeError: a leaf of ``params`` is not floating point.
        ValueError: as :func:`init`.

    Examples:
        >>> belief = lf.kronecker_init({"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)})
        >>> [part.scale.shape for part in belief.precision.parts]  # two units; three inputs and a one
        [(2, 4)]
    """
    checks.choice("shared", shared, ("expand", "reduce"))
    mean, diag = _prior(params, precision)
    return Belief(mean, kronecker.diagonal(diag, layout(mean, layers, "unit"), reduce=shared == "reduce"))


def _prior(params: Tree, precision: Tree | Scaled) -> tuple[Tree, Tree]:
    """The mean and the full diagonal of a prior, checked."""
    checks.parameters(params)
    checks.finite("params", params)
    if isinstance(precision, Scaled):
        precision = precision.of(params)
    checks.prefix("precision", precision, params)
    checks.positive("precision", precision)
    mean = jax.tree.map(jnp.asarray, params)
    return mean, tree.broadcast(precision, mean)


def check_belief(belief: Any, needed: tuple[str, ...] = OPERATIONS) -> None:
    """A belief whose mean and precision fit each other, and are finite and positive where that can be seen.

    A precision of one's own need only have the operations that are used; it is checked where it knows how.

    Raises:
        TypeError: something else than a :class:`Belief`, or than a precision in it.
        ValueError: the mean has another structure or other shapes than the precision, or values are wrong.
    """
    checks.instance("belief", belief, Belief, "make one with init or kronecker_init")
    checks.operations("belief.precision", belief.precision, needed, "make a belief with init or kronecker_init")
    if hasattr(belief.precision, "check"):
        belief.precision.check(belief.mean, name="belief.mean")
    checks.finite("belief.mean", belief.mean)


def penalty(belief: Belief, params: Tree) -> Float[Array, ""]:
    """½(θ − m)ᵀP(θ − m), the regulariser of a MAP step; its gradient is P(θ − m).

    Args:
        params: θ, shaped like the belief's mean.

    Raises:
        ValueError: ``params`` has another structure or other shapes than the mean.

    Examples:
        >>> float(lf.penalty(lf.init(jnp.zeros(2), precision=4.0, rank=0), jnp.ones(2)))
        4.0
    """
    check_belief(belief, needed=("quadratic",))
    checks.same_shapes("params", params, belief.mean)
    return compiled(unchecked_penalty, belief, params)


def unchecked_penalty(belief: Belief, params: Tree) -> Float[Array, ""]:
    """:func:`penalty` of what has been checked."""
    dtype = widths.common(belief, params)
    belief, params = widths.cast((belief, params), dtype)
    return 0.5 * belief.precision.quadratic(jax.tree.map(jnp.subtract, params, belief.mean))


def sample(key: Key[Array, ""], belief: Belief, n: int) -> Tree:
    """``n`` independent draws from the belief, stacked along a leading axis; exact covariance P⁻¹, O(nDk).

    Raises:
        ValueError: ``n`` is not a static integer ≥ 0.

    Examples:
        >>> lf.sample(jax.random.key(0), lf.init({"w": jnp.zeros(3)}, rank=1), 5)["w"].shape
        (5, 3)
    """
    key = checks.key("key", key)
    check_belief(belief)
    checks.count("n", n, minimum=0)
    return compiled(_sample, key, belief, n=n)


def _sample(key: Key[Array, ""], belief: Belief, *, n: int) -> Tree:
    wide = widths.cast(belief, widths.common(belief))
    joined = Joined.of(wide.precision, wide.mean)
    draws = joined.buffer.stack_back(joined.precision(wide.precision).draw(key, n))
    return widths.like(jax.tree.map(lambda draw, mean: draw + mean[None], draws, wide.mean), belief.mean)


def store(belief: Belief, dtype: DTypeLike) -> Belief:
    """The belief with its factor W in ``dtype``, for instance ``jnp.bfloat16``: half the memory of k·D numbers.

    Mean and diagonal stay as they are. The kernels compute in the diagonal's dtype and give back factors in the one
    that they were stored in, so a stream goes on as it began. The rounded factor's W Wᵀ is positive semi-definite, so P
    stays positive definite.

    Raises:
        TypeError: ``belief`` is not one, or ``dtype`` is no floating-point dtype.
        ValueError: the precision has no low-rank factor: the bases of a :class:`Kronecker` must stay orthogonal.

    Examples:
        >>> lf.store(lf.init(jnp.zeros(2), rank=1), jnp.bfloat16).precision.factor.dtype
        dtype(bfloat16)
    """
    check_belief(belief)
    checks.floating("dtype", dtype)
    if not storage.parts(belief.precision):
        raise ValueError(
            f"belief: expected a precision with low-rank factors, got "
            f"{type(belief.precision).__name__}; keep it as it is"
        )
    return belief._replace(precision=storage.narrowed(belief.precision, dtype))


def zero_site(belief: Belief) -> Precision:
    """The site of a step without data: nothing was learned there. For :func:`smooth`.

    Examples:
        >>> print(lf.zero_site(lf.init(jnp.zeros(2), rank=0)).diag)
        [0. 0.]
    """
    check_belief(belief)
    return jax.tree.map(jnp.zeros_like, belief.precision)
