"""A filter whose process noise follows the data, and that is never much worse than the one it goes around."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.precision import Precision
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.drivers.filters import Filter, if_given, started
from lowrank_filter.drivers.state import belief_of, with_mean
from lowrank_filter.kernels.fixed_share import fixed_share
from lowrank_filter.kernels.update import Info

# Steps over which the size of a gradient is remembered.
_MEMORY = 100
# Nats: a gradient below it is not worth a full step.
_SLIGHT = 1e-3
# Probability at each step that what was the better of the two filters no longer is; its cost in nats where they differ.
_SHARE = 1e-3


class AdaptiveBelief(NamedTuple):
    """The state of an :func:`adaptive_filter`; a stream returns it in place of a belief.

    Attributes:
        adapted: the belief of the filter whose noise moves.
        as_built: that of the filter as it was built.
        doubt: probability that the second predicts better.
        unconstrained: log q, and log a/(1 − a) where the transition is adapted, by name: n numbers.
        slopes: the derivatives of the adapted belief's numbers by these, each stacked along n.
        search: of the ascent.
    """

    adapted: Any
    as_built: Any
    doubt: Float[Array, ""]
    unconstrained: dict[str, Tree]
    slopes: list[Array]
    search: Any

    @property
    def belief(self) -> Any:
        """The more probable of the two, for :func:`predictive`, :func:`sample` and the like."""

        def chosen(built: Array, adapted: Array) -> Array:
            return jnp.where(jnp.expand_dims(self.doubt > 0.5, range(self.doubt.ndim, built.ndim)), built, adapted)

        return jax.tree.map(chosen, self.as_built, self.adapted)

    @property
    def mean(self) -> Tree:
        """That of the belief."""
        return self.belief.mean

    @property
    def precision(self) -> Precision:
        """That of the belief."""
        return belief_of(self).precision

    @property
    def process_noise(self) -> Tree:
        """q, what the next step adds."""
        return self.dynamics["process_noise"]

    @property
    def dynamics(self) -> dict[str, Tree]:
        """q, and a where it is adapted, by name."""
        return _dynamics(self.unconstrained)

    def with_mean(self, mean: Tree) -> "AdaptiveBelief":
        """The same with another mean of both beliefs."""
        return self._replace(adapted=with_mean(self.adapted, mean), as_built=with_mean(self.as_built, mean))


def adaptive_filter(
    filter: Filter, *, learning_rate: ArrayLike = 0.05, process_noise: Tree = 1e-3, transition: Tree | None = None
) -> Filter:
    """A filter with a process noise that moves with every observation, in the direction that its evidence asks for.

        log q_{t+1} = log q_t + η g_t / (√v_t + ε),   g_t = ∂ log p(y_t | y_{1:t−1}, q) / ∂ log q

    where g_t counts what q did in all steps so far: the belief's derivatives by log q go along with it, in forward mode
    (recursive maximum likelihood, LeGland & Mevel 1997). The derivative through the last step alone asks for too little
    noise where weights move steadily: what it costs is felt at once, what it brings only later. v_t is the mean of g²
    over the last hundred steps (RMSProp), since the gradient is proportional to q where q is small, and such a q would
    never grow again by plain ascent. It begins at 0, so that the first steps are up to ten times as long; ε = .001
    nats. y_t moves what the steps after it add, so the log evidence stays that of predictions. An observation that is
    masked out moves nothing.

    Noise that was added in vain, before q fell, stays in the belief of weights that the data say little about. So the
    filter as it was built goes along too, and the prediction is the mixture of both by their evidence, with a share of
    .001 that the better one changes at each step (fixed share, Herbster & Warmuth 1998): where nothing moves, at most
    log 2 nats in all and .001 a step are lost, whatever q does. The evidence of a network that is less sure than it
    could be may ask for less noise after a change than its accuracy would.

    The result is a :class:`Filter` for every driver, with an :class:`AdaptiveBelief` for its state; ``info`` has the
    log evidence and the mean outputs of the mixture and is else that of the more probable filter, whose belief is
    ``state.belief``, what :func:`predictive`, :func:`sample` and :func:`smooth` take; ``info.dynamics`` has the q (and
    a) of each step. This takes about three times a step's time and memory, and another step's for each number more.

    Args:
        filter: whose ``step`` takes a ``process_noise``: an :func:`extended_filter`, a :func:`changepoint_filter` or
            one's own. The noise it was built with is that of the filter beside. In a :func:`laplace_filter` the
            derivatives go through the training.
        learning_rate: η > 0, about the nats of log q per observation.
        process_noise: q > 0 to start from, a variance per step: one number, or a pytree prefix of the parameters with
            one for each part, such as a layer; each goes its own way.
        transition: a in (0, 1) to start from, likewise; None leaves the filter's own alone.

    Raises:
        TypeError: ``filter`` is none, or a number is of the wrong kind.
        ValueError: a visible value is out of range, or an array; a step is given a noise, which the filter moves by
            itself.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> built = lf.adaptive_filter(lf.extended_filter(apply_fn, lf.Gaussian(1.0), rank=2), process_noise=1e-2)
        >>> x, y = jnp.tile(jnp.eye(2), (50, 1)), jnp.arange(100.0)  # a line that nothing at rest can follow
        >>> state, steps = lf.filter_stream(built, built.init(jnp.zeros(2)), x, y)
        >>> state.belief.mean.shape, bool(state.process_noise > 1e-2), steps.info.dynamics["process_noise"].shape
        ((2,), True, (100,))
    """
    checks.instance("filter", filter, Filter, "build one with extended_filter")
    checks.scalar("learning_rate", learning_rate)
    _numbers("process_noise", process_noise)
    if transition is not None:
        _numbers("transition", transition)
        _below_one(transition)
    ascent = optax.chain(
        optax.scale_by_rms(decay=1 - 1 / _MEMORY, eps=_SLIGHT, eps_in_sqrt=False),
        optax.scale(learning_rate),  # type: ignore[arg-type]
    )

    def init(params: Tree, x: Any = None, y: Any = None, mask: Any = None) -> AdaptiveBelief:
        belief = started(filter, params, x, y, mask)
        dtype = tree.wide_dtype(belief.mean)

        def each(function: Any, values: Tree) -> Tree:
            return jax.tree.map(lambda value: function(jnp.asarray(value, dtype)), values)

        checks.prefix("process_noise", process_noise, belief.mean)
        free = {"process_noise": each(jnp.log, process_noise)}
        if transition is not None:
            checks.prefix("transition", transition, belief.mean)
            free["transition"] = each(jax.scipy.special.logit, transition)
        count = len(jax.tree.leaves(free))
        slopes = [jnp.zeros((count, *leaf.shape), leaf.dtype) for leaf in _split(belief)[0]]
        return AdaptiveBelief(belief, belief, jnp.asarray(0.5, dtype), free, slopes, ascent.init(free))

    def predict(state: AdaptiveBelief, **others: Tree) -> AdaptiveBelief:
        checks.instance("belief", state, AdaptiveBelief, "start from the adaptive filter's own init")

        def ahead(belief: Any, dynamics: dict[str, Tree]) -> tuple[Any, Array, None]:
            return filter.predict(belief, **_given(dynamics, others)), jnp.zeros(()), None

        adapted, slopes, _, _ = _pushed(ahead, state)
        return state._replace(adapted=adapted, as_built=filter.predict(state.as_built, **others), slopes=slopes)

    def update(
        state: AdaptiveBelief, x: Any, y: Any, mask: Any = None, weights: Any = None
    ) -> tuple[AdaptiveBelief, Info]:
        return absorbed(state, lambda belief, _: filter.update(belief, x, y, mask, **if_given(weights)))

    def step(
        state: AdaptiveBelief, x: Any, y: Any, mask: Any = None, weights: Any = None, **others: Tree
    ) -> tuple[AdaptiveBelief, Info]:
        return absorbed(
            state,
            lambda belief, dynamics: filter.step(belief, x, y, mask, **if_given(weights), **_given(dynamics, others)),
        )

    def absorbed(state: AdaptiveBelief, absorb: Callable) -> tuple[AdaptiveBelief, Info]:
        checks.instance("belief", state, AdaptiveBelief, "start from the adaptive filter's own init")

        def seen(belief: Any, dynamics: dict[str, Tree]) -> tuple[Any, Array, Info]:
            belief, info = absorb(belief, dynamics)
            return belief, info.log_evidence, info

        adapted, slopes, gradient, info = _pushed(seen, state)
        as_built, beside = absorb(state.as_built, {})
        log_evidence, doubt = _mixed(state.doubt, beside.log_evidence, info.log_evidence)
        structure = jax.tree.structure(state.unconstrained)
        move, search = ascent.update(structure.unflatten(list(gradient)), state.search)
        after = (optax.apply_updates(state.unconstrained, move), search)
        free, search = tree.select(jnp.any(gradient != 0), after, (state.unconstrained, state.search))
        record: Info = tree.select(doubt > 0.5, beside, info)
        if info.outputs is not None and beside.outputs is not None:
            share = state.doubt.astype(info.outputs.dtype)
            record = record._replace(outputs=share * beside.outputs + (1 - share) * info.outputs)
        dynamics = {**(record.dynamics or {}), **state.dynamics}
        record = record._replace(log_evidence=log_evidence, dynamics=dynamics)
        return AdaptiveBelief(adapted, as_built, doubt, free, slopes, search), record

    return Filter(init, predict, update, step, filter.check)


def _mixed(doubt: Array, built: Array, adapted: Array) -> tuple[Array, Array]:
    """Log evidence of the mixture, and the doubt after it: that before, where neither is ahead."""
    built, adapted = (jnp.where(jnp.isnan(value), -jnp.inf, value) for value in (built, adapted))
    gap = jnp.where(built == adapted, 0, built - adapted)
    behind = jnp.where(gap > 0, 1 - doubt, doubt).astype(gap.dtype)
    total = jnp.maximum(built, adapted) + jnp.log1p(behind * jnp.expm1(-jnp.abs(gap)))
    return total, jnp.where(gap == 0, doubt, fixed_share(doubt, gap, _SHARE))


def _pushed(function: Callable, state: AdaptiveBelief) -> tuple[Any, list[Array], Float[Array, " n"], Any]:
    """The belief that (belief, dynamics) → (belief, number, aux) leads to, its slopes, those of the number, and aux."""
    reals, whole = _split(state.adapted)
    numbers, structure = jax.tree.flatten(state.unconstrained)

    def of(numbers: list[Array], reals: list[Array]) -> tuple[tuple[list[Array], Any], tuple[Any, Any]]:
        belief, number, aux = function(whole(reals), _dynamics(structure.unflatten(numbers)))
        return (_split(belief)[0], number), (belief, aux)

    def along(direction: Array, slopes: list[Array]) -> tuple[Any, tuple[list[Array], Any]]:
        _, slope, kept = jax.jvp(of, (numbers, reals), (list(direction), slopes), has_aux=True)
        return kept, slope

    directions = jnp.eye(len(numbers), dtype=numbers[0].dtype)
    (belief, aux), found = jax.vmap(along, out_axes=(None, 0))(directions, state.slopes)
    slopes, gradient = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0), found)
    return belief, slopes, gradient, aux


def _split(belief: Any) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    """A state's real numbers, and the state as a function of them: what counts steps has no derivative."""
    leaves, structure = jax.tree.flatten(belief)
    real = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]

    def whole(reals: list[Array]) -> Any:
        given = iter(reals)
        return structure.unflatten(
            [next(given) if is_real else leaf for leaf, is_real in zip(leaves, real, strict=True)]
        )

    return [leaf for leaf, is_real in zip(leaves, real, strict=True) if is_real], whole


def _dynamics(unconstrained: dict[str, Tree]) -> dict[str, Tree]:
    return {
        name: jax.tree.map(jnp.exp if name == "process_noise" else jax.nn.sigmoid, value)
        for name, value in unconstrained.items()
    }


def _given(dynamics: dict[str, Tree], others: dict[str, Tree]) -> dict[str, Tree]:
    if twice := sorted(set(others) & set(dynamics)):
        raise ValueError(
            f"{twice[0]}: expected none, since an adaptive filter moves its own, got one; leave it out, or use the "
            "filter that was adapted"
        )
    return {**others, **dynamics}


def _numbers(name: str, value: Tree) -> None:
    """Positive, one for each part."""
    if not jax.tree.leaves(value):
        raise ValueError(f"{name}: expected one number, or one for each part, got {value!r}; give where to start from")
    checks.positive(name, value)
    for leaf in jax.tree.leaves(value):
        if jnp.shape(leaf) != ():
            raise ValueError(
                f"{name}: expected one number, or one for each part of the parameters, got an array of shape "
                f"{jnp.shape(leaf)}; give a scalar, or a pytree prefix of scalars"
            )


def _below_one(transition: Tree) -> None:
    for leaf in jax.tree.leaves(transition):
        if checks.concrete(leaf) and not leaf < 1:
            raise ValueError(
                f"transition: expected values in (0, 1) to start from, got {leaf}; give one below 1, or None to leave "
                "the filter's own alone"
            )
