"""Beliefs about parameters, and what can be asked of one without data."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Key

from lowrank_filter.algebra import parts, storage, tree, widths
from lowrank_filter.algebra.diag_low_rank import Joined, low_rank_parts
from lowrank_filter.algebra.operations import OPERATIONS
from lowrank_filter.algebra.partition import Layer
from lowrank_filter.algebra.precision import Precision
from lowrank_filter.algebra.structures import NAMES, Couples, KroneckerFactored, LowRank
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled
from lowrank_filter.kernels.prior import Scaled

# k where none is given: a stream's, see docs/start/choosing.md.
RANK = 10


class Belief(NamedTuple):
    """θ ~ N(mean, precision⁻¹).

    Attributes:
        mean: m, a pytree of floating-point arrays: the parameters of a network.
        precision: P, for instance a :class:`DiagLowRank`.
    """

    mean: Tree
    precision: Precision

    def __repr__(self) -> str:
        """Its size and kind, no numbers, and how many are stacked; as a tuple where what it holds are no arrays."""

        def check(one: Belief) -> None:
            if hasattr(one.precision, "check"):
                one.precision.check(one.mean, positive=False)

        try:
            stack, one = tree.unstacked(self, check)
            kind = type(self.precision).__name__
            return f"Belief{stack}({tree.described(one.mean)}, rank={one.precision.rank}, {kind})"
        except (AttributeError, TypeError, IndexError):
            return f"Belief(mean={self.mean!r}, precision={self.precision!r})"


def init(
    params: Tree,
    precision: Tree | Scaled = 1.0,
    *,
    structure: Any = None,
    rank: int | None = None,
    blocks: Couples | None = None,
    layers: Sequence[Layer] | None = None,
) -> Belief:
    """N(params, diag(precision)⁻¹), with what each part of the network has room to learn.

    Parts are independent of each other in the belief, as blocks are, and coupled by the outputs in an update. A pytree
    prefix means what it does everywhere in JAX: ``{"a": s, "b": s}`` is ``s``, so parameters with equal structures are
    one part.

    Args:
        params: the prior mean, any pytree of floating-point arrays.
        precision: the prior precision in units of 1/θ²: a positive scalar, a pytree prefix of ``params`` (a scalar
            per layer, an array per parameter), or the network's own, :func:`scaled`. Frozen parameters take none.
        structure: a :class:`LowRank`, :class:`Dense`, :class:`Diagonal`, :class:`KroneckerFactored` or
            :class:`Frozen`, or a pytree prefix of ``params`` of them.
        rank: k, for short, and 10 if neither this nor a structure is given: ``rank=k`` is ``structure=LowRank(k)``, and
            with it ``structure="layer"`` or "unit" is ``LowRank(k, blocks="layer")``, "network" the same as none;
            "kronecker" is ``KroneckerFactored()``.
        blocks, layers: as in :class:`LowRank`; deprecated, give them to the structure.

    Raises:
        TypeError: a leaf of ``params`` is not floating point, or ``structure`` holds something else than structures.
        ValueError: ``params`` is empty, ``precision`` is not a prefix or not positive, ``structure`` is no prefix or
            unknown or has no room for its part, ``layers`` do not fit the parameters.

    Examples:
        >>> belief = lf.init({"w": jnp.zeros((3, 2))}, precision=4.0, rank=1)
        >>> belief.precision.diag["w"].shape, belief.precision.factor["w"].shape
        ((3, 2), (1, 3, 2))
        >>> params = {"body": jnp.zeros(30), "head": jnp.zeros(5)}
        >>> lf.init(params, structure={"body": lf.LowRank(2), "head": lf.Dense()})
        Belief(D=35, float32, rank=2, Parts)
    """
    if blocks is not None or layers is not None:
        moved("blocks=, layers=", "structure=LowRank(rank, blocks=..., layers=...)")
        checks.choice("blocks", "network" if blocks is None else blocks, ("network", "layer", "unit"))
        checks.rank(rank)
        if structure is not None:
            raise ValueError("blocks, layers: expected None beside structure=, got both; give them to the structure")
        structure, rank = LowRank(rank or 0, blocks=blocks or "network", layers=layers), None
    return prior(params, precision, structured(structure, rank))


def kronecker_init(
    params: Tree,
    precision: Tree | Scaled = 1.0,
    *,
    shared: Literal["expand", "reduce"] = "expand",
    layers: Sequence[Layer] | None = None,
) -> Belief:
    """``init(params, precision, structure=KroneckerFactored(shared, layers))``; deprecated.

    Raises:
        TypeError: a leaf of ``params`` is not floating point.
        ValueError: as :func:`init`.

    Examples:
        >>> import warnings
        >>> with warnings.catch_warnings(action="ignore"):
        ...     belief = lf.kronecker_init({"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)})
        >>> [part.scale.shape for part in belief.precision.parts]  # two units; three inputs and a one
        [(2, 4)]
    """
    moved("kronecker_init", "init(params, precision, structure=KroneckerFactored())")
    return prior(params, precision, KroneckerFactored(shared, layers))


def structured(structure: Any, rank: int | None) -> Any:
    """The structures that are meant.

    Raises:
        ValueError: a name is unknown, or a rank is given where there is none.
    """
    if isinstance(structure, str):
        checks.choice("structure", structure, NAMES)
    if structure is None or (isinstance(structure, str) and structure != "kronecker"):
        rank = RANK if rank is None else rank
        checks.rank(rank)
        return LowRank(rank, blocks=cast("Couples", structure or "network"))
    if rank is not None:
        raise ValueError(
            f"rank: expected None for structure={structure!r}, got {rank!r}; leave it out, since a structure has its "
            "own or none"
        )
    return KroneckerFactored() if isinstance(structure, str) else structure


def prior(params: Tree, precision: Tree | Scaled, structure: Any) -> Belief:
    """The belief before data, checked."""
    checks.parameters(params)
    checks.finite("params", params)
    membership, _ = parts.assigned(params, structure)
    if isinstance(precision, Scaled):
        found = precision.of(membership.learned(params), membership.filled, params)
        precision = membership.filled(found, jax.tree.map(jnp.ones_like, params))
    checks.prefix("precision", precision, params)
    checks.positive("precision", precision)
    mean = jax.tree.map(jnp.asarray, params)
    return Belief(mean, compiled(_before_data, precision, mean, structure=structure))


def _before_data(precision: Tree, mean: Tree, *, structure: Any) -> Precision:
    return parts.diagonal(tree.broadcast(precision, mean), structure)


def moved(name: str, instead: str, *, stacklevel: int = 3) -> None:
    """Warn of what goes."""
    text = f"{name}: deprecated, gone in the next release; write {instead}"
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel)


def learned(belief: Belief, apply_fn: Any = None) -> tuple[Belief, Any, Callable[[Belief], Belief]]:
    """The belief about the parameters that are not frozen and the network as a function of them; and what puts the
    frozen ones back into a belief."""
    membership = getattr(belief.precision, "membership", None)
    if membership is None or not membership.frozen:
        return belief, apply_fn, lambda found: found
    mean = belief.mean

    def of_learned(params: Tree, x: Any) -> Any:
        return apply_fn(membership.filled(params, mean), x)

    def whole(found: Belief) -> Belief:
        return found._replace(mean=membership.filled(found.mean, mean))

    return belief._replace(mean=membership.learned(mean)), of_learned, whole


def check_frozen(belief: Belief, params: Tree) -> None:
    """Frozen parameters are where they were, as far as that can be seen.

    Raises:
        ValueError: one is not.
    """
    membership = getattr(belief.precision, "membership", None)
    if membership is None or not membership.frozen:
        return
    was, now = membership.still(belief.mean), membership.still(params)
    for (path, before), after in zip(jax.tree_util.tree_leaves_with_path(was), jax.tree.leaves(now), strict=True):
        if before is not after and checks.concrete((before, after)) and not np.array_equal(before, after):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)}: expected the frozen values of belief.mean, got others; train "
                "only what is not Frozen (as fit does), or start a belief where these are"
            )


def check_belief(belief: Any, needed: tuple[str, ...] = OPERATIONS) -> None:
    """A belief whose mean and precision fit each other, and are finite and positive where that can be seen.

    A precision of one's own need only have the operations that are used; it is checked where it knows how.

    Raises:
        TypeError: something else than a :class:`Belief`, or than a precision in it.
        ValueError: the mean has another structure or other shapes than the precision, or values are wrong.
    """
    advice = "make one with init"
    if hasattr(belief, "belief"):
        advice = "call its .predictive, or give its .belief" if hasattr(belief, "predictive") else "give its .belief"
    checks.instance("belief", belief, Belief, advice)
    checks.operations("belief.precision", belief.precision, needed, "make a belief with init")
    if hasattr(belief.precision, "check"):
        belief.precision.check(belief.mean, name="belief.mean")
    checks.finite("belief.mean", belief.mean)


def penalty(belief: Belief, params: Tree) -> Float[Array, ""]:
    """½(θ − m)ᵀP(θ − m), the regulariser of a MAP step; its gradient is P(θ − m), zero for frozen parameters.

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
    params = learned(belief._replace(mean=params))[0].mean
    belief = learned(belief)[0]
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
    stacked = belief._replace(mean=jax.tree.map(lambda m: jnp.broadcast_to(m, (n, *m.shape)), belief.mean))
    _, _, whole = learned(stacked)
    belief, _, _ = learned(belief)
    wide = widths.cast(belief, widths.common(belief))
    joined = Joined.of(wide.precision, wide.mean)
    found = joined.buffer.stack_back(joined.precision(wide.precision).draw(key, n))
    draws = jax.tree.map(lambda draw, mean: draw + mean[None], found, wide.mean)
    return whole(stacked._replace(mean=widths.like(draws, belief.mean))).mean


def store(belief: Belief, dtype: DTypeLike) -> Belief:
    """The belief with its factor W in ``dtype``, for instance ``jnp.bfloat16``: half the memory of k·D numbers.

    Mean and diagonal stay as they are. The kernels compute in the diagonal's dtype and give back factors in the one
    that they were stored in, so a stream goes on as it began. The rounded factor's W Wᵀ is positive semi-definite, so P
    stays positive definite.

    Raises:
        TypeError: ``belief`` is not one, or ``dtype`` is no floating-point dtype.
        ValueError: the precision has no low-rank factor: the bases of a :class:`Kronecker` must stay orthogonal. In a
            network of parts, those that have one are stored so.

    Examples:
        >>> lf.store(lf.init(jnp.zeros(2), rank=1), jnp.bfloat16).precision.factor.dtype
        dtype(bfloat16)
    """
    check_belief(belief)
    checks.floating("dtype", dtype)
    if not low_rank_parts(belief.precision):
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
