"""A filter whose process noise follows the data: a step of gradient ascent on the evidence at each observation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ArrayLike

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.precision import Precision
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.drivers.filters import Filter, if_given
from lowrank_filter.drivers.state import belief_of
from lowrank_filter.kernels.update import Info

# Steps over which the size of a gradient is remembered.
_MEMORY = 100


class AdaptiveBelief(NamedTuple):
    """The state of an :func:`adaptive_filter`; a stream returns it in place of a belief.

    Attributes:
        belief: about the parameters, for :func:`predictive`, :func:`sample` and the like.
        unconstrained: log q, and log a/(1 − a) where the transition is adapted, by name.
        search: of the ascent.
    """

    belief: Any
    unconstrained: dict[str, Tree]
    search: Any

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
        return {
            name: jax.tree.map(jnp.exp if name == "process_noise" else jax.nn.sigmoid, value)
            for name, value in self.unconstrained.items()
        }


def adaptive_filter(
    filter: Filter, *, learning_rate: ArrayLike = 0.05, process_noise: Tree = 1e-3, transition: Tree | None = None
) -> Filter:
    """A filter with a process noise that moves with every observation, in the direction that its evidence asks for.

        log q_{t+1} = log q_t + η g_t / √v_t,   g_t = ∂ log p(y_t | y_{1:t−1}, q_t) / ∂ log q_t

    with v_t the mean of g² over the last hundred steps (RMSProp): the gradient is proportional to q where q is small,
    and such a q would never grow again by plain ascent. y_t moves what the steps after it add, so the log evidence
    stays that of a prediction. An observation that is masked out moves nothing. Empirical Bayes of this kind is CPP-OU
    in BONE (arXiv 2411.10153), there with plain ascent.

    The result is a :class:`Filter` for every driver, with an :class:`AdaptiveBelief` for its state; ``info.dynamics``
    has the q (and a) of each step. Its ``step`` adapts, ``predict`` and ``update`` by themselves do not.

    Args:
        filter: whose ``step`` takes a ``process_noise``: an :func:`extended_filter`, a :func:`changepoint_filter` or
            one's own. The noise it was built with is not used. A :func:`laplace_filter` trains within the step, and the
            gradient goes through all of that.
        learning_rate: η > 0, about the nats of log q per observation.
        process_noise: q > 0 to start from, a variance per step; a scalar, or a pytree prefix of the parameters whose
            leaves each go their own way, as one for each layer.
        transition: a in (0, 1) to start from, likewise; None leaves the filter's own alone.

    Raises:
        TypeError: ``filter`` is none, or a number is of the wrong kind.
        ValueError: a visible value is out of range; a step is given a noise, which the filter moves by itself.

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
    checks.positive("process_noise", process_noise)
    if transition is not None:
        checks.positive("transition", transition)
        checks.positive("1 - transition", jax.tree.map(lambda a: 1 - a, transition))
    ascent = optax.chain(
        optax.scale_by_rms(decay=1 - 1 / _MEMORY, eps=1e-12, eps_in_sqrt=False, bias_correction=True),
        optax.scale(learning_rate),  # type: ignore[arg-type]
    )

    def init(params: Tree, x: Any = None) -> AdaptiveBelief:
        belief = filter.init(params) if x is None else filter.init(params, x)
        dtype = tree.wide_dtype(belief.mean)

        def each(function: Any, values: Tree) -> Tree:
            return jax.tree.map(lambda value: function(jnp.asarray(value, dtype)), values)

        checks.prefix("process_noise", process_noise, belief.mean)
        free = {"process_noise": each(jnp.log, process_noise)}
        if transition is not None:
            checks.prefix("transition", transition, belief.mean)
            free["transition"] = each(jax.scipy.special.logit, transition)
        return AdaptiveBelief(belief, free, ascent.init(free))

    def given(state: AdaptiveBelief, others: dict[str, Tree]) -> dict[str, Tree]:
        if twice := sorted(set(others) & set(state.unconstrained)):
            raise ValueError(
                f"{twice[0]}: expected none, since an adaptive filter moves its own, got one; leave it out, or use the "
                "filter that was adapted"
            )
        return {**others, **state.dynamics}

    def told(info: Info, state: AdaptiveBelief) -> Info:
        return info._replace(dynamics={**(info.dynamics or {}), **state.dynamics})

    def predict(state: AdaptiveBelief, **others: Tree) -> AdaptiveBelief:
        return state._replace(belief=filter.predict(state.belief, **given(state, others)))

    def update(
        state: AdaptiveBelief, x: Any, y: Any, mask: Any = None, weights: Any = None
    ) -> tuple[AdaptiveBelief, Info]:
        belief, info = filter.update(state.belief, x, y, mask, **if_given(weights))
        return state._replace(belief=belief), told(info, state)

    def step(
        state: AdaptiveBelief, x: Any, y: Any, mask: Any = None, weights: Any = None, **others: Tree
    ) -> tuple[AdaptiveBelief, Info]:

        def evidence(free: dict[str, Tree]) -> tuple[Any, tuple[Any, Info]]:
            dynamics = given(state._replace(unconstrained=free), others)
            belief, info = filter.step(state.belief, x, y, mask, **if_given(weights), **dynamics)
            return info.log_evidence, (belief, info)

        gradient, (belief, info) = jax.grad(evidence, has_aux=True)(state.unconstrained)
        moving = tree.all_finite(gradient) & ~jnp.all(jnp.stack([jnp.all(g == 0) for g in jax.tree.leaves(gradient)]))
        move, search = ascent.update(gradient, state.search)
        after = (optax.apply_updates(state.unconstrained, move), search)
        free, search = tree.select(moving, after, (state.unconstrained, state.search))
        return AdaptiveBelief(belief, free, search), told(info, state)

    return Filter(init, predict, update, step)
