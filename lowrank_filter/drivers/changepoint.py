"""A filter for streams that change at once: one hypothesis for each time of the last change."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.precision import Precision
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.drivers.filters import Filter, if_given, started
from lowrank_filter.drivers.state import belief_of, with_mean
from lowrank_filter.kernels.belief import Belief
from lowrank_filter.kernels.examples import Apply
from lowrank_filter.kernels.likelihoods import Likelihood
from lowrank_filter.kernels.prediction import Prediction
from lowrank_filter.kernels.predictive import Predictive, predictive
from lowrank_filter.kernels.update import Info


class ChangepointBelief(NamedTuple):
    """The state of a :func:`changepoint_filter`: a mixture, one component for each run length that is still likely.

    Attributes:
        hypotheses: the states of the filter, stacked along K; after an update the most probable first.
        log_weights: log p(run length | data) [K], −inf where there is none yet.
        run_lengths: r, steps since the last change [K].
        prior: what a change starts from.
    """

    hypotheses: Any
    log_weights: Float[Array, " K"]
    run_lengths: Int[Array, " K"]
    prior: Any

    @property
    def mean(self) -> Tree:
        """Σ wₖ mₖ, that of the mixture; of each, where states are stacked."""
        if self.log_weights.ndim > 1:
            return jax.vmap(lambda state: state.mean)(self)
        weights = jnp.exp(self.log_weights)
        return jax.tree.map(
            lambda leaf: jnp.tensordot(weights.astype(leaf.dtype), leaf, axes=1, precision=tree.HIGHEST),
            self.hypotheses.mean,
        )

    @property
    def belief(self) -> Belief:
        """That of the most probable hypothesis; of each, where states are stacked."""
        if self.log_weights.ndim > 1:
            return jax.vmap(lambda state: state.belief)(self)
        return belief_of(jax.tree.map(lambda leaf: leaf[jnp.argmax(self.log_weights)], self.hypotheses))

    @property
    def precision(self) -> Precision:
        """That of the most probable hypothesis."""
        return self.belief.precision

    def predictive(self, apply_fn: Apply, x: Any, *, likelihood: Likelihood | None = None) -> Predictive | Prediction:
        """Mean and covariance of the mixture's outputs; with a ``likelihood``, a prediction of y with these moments.

        f̂ = Σ wₖ f̂ₖ and Σ = Σ wₖ (Σₖ + (f̂ₖ − f̂)(f̂ₖ − f̂)ᵀ), with each network linearised at its own mean.
        """
        each = jax.vmap(lambda state: predictive(belief_of(state), apply_fn, x))(self.hypotheses)
        weights = jnp.exp(self.log_weights)
        mean = jnp.einsum("k,kbc->bc", weights, each.mean, precision=tree.HIGHEST)
        apart = each.mean - mean
        between = jnp.einsum("k,kbc,kbd->bcd", weights, apart, apart, precision=tree.HIGHEST)
        covariance = jnp.einsum("k,kbcd->bcd", weights, each.covariance, precision=tree.HIGHEST) + between
        return Predictive(mean, covariance) if likelihood is None else Prediction(mean, covariance, likelihood)


def changepoint_filter(
    filter: Filter, hazard: ArrayLike, *, hypotheses: int = 8, reset: Literal["prior", "inflate"] = "prior"
) -> Filter:
    """Bayesian online changepoint detection (Adams & MacKay 2007) around any filter of the weights.

    Before each observation everything may have changed, with probability h. One filter runs for each time of the last
    change, side by side under ``jax.vmap``, and the evidence of each weighs it:

        p(r_t = r + 1, y_{1:t}) = (1 − h) p(y_t | r, y_{t−r:t−1}) p(r_{t−1} = r, y_{1:t−1})
        p(r_t = 0, y_{1:t})     = h p(y_t | reset) Σᵣ p(r_{t−1} = r, y_{1:t−1})

    The K most probable are kept, so that time and memory are (K + 1) and K times the filter's; with K > t and a
    linear-Gaussian model all of it is exact. Between changes the weights move as the filter says, which may be an
    :func:`adaptive_filter`: drift and jumps together (the run lengths of BONE, arXiv 2411.10153).

    The result is a :class:`Filter` for every driver, with a :class:`ChangepointBelief` for its state. ``info`` has the
    log evidence and the mean outputs of the mixture and no site; else it is that of the hypothesis most probable before
    the data. ``info.dynamics`` has "run_length", the most probable one after them, and "change", the probability that
    r is 0. Predict by the state's own :meth:`~ChangepointBelief.predictive`, which is the mixture's;
    ``lf.predictive(state.belief, …)`` is that of the most probable hypothesis. A hypothesis that diverges loses its
    weight; where all do, the weights stay and the log evidence is −inf.

    Args:
        filter: of each hypothesis; of any kind.
        hazard: h in [0, 1], the probability of a change at each step: one over the steps expected between two.
        hypotheses: K, static.
        reset: where a change leads: "prior", to what ``init`` returned; "inflate", to that with the mean of the most
            probable hypothesis: how sure one was is forgotten, where the weights are is not.

    Raises:
        TypeError: ``filter`` is none, or a number is of the wrong kind.
        ValueError: ``hazard`` is no probability, ``hypotheses`` below 1, ``reset`` unknown.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> built = lf.changepoint_filter(lf.extended_filter(apply_fn, lf.Gaussian(0.1), rank=1), hazard=0.05)
        >>> x, y = jnp.ones((20, 1)), jnp.where(jnp.arange(20) < 12, -1.0, 1.0)
        >>> state, steps = lf.filter_stream(built, built.init(jnp.zeros(1)), x, y)
        >>> print(state.mean.round(1), steps.info.dynamics["run_length"][10:15])
        [1.] [11 12  0  1  2]
    """
    checks.instance("filter", filter, Filter, "build one with extended_filter")
    checks.within("hazard", hazard, 0, 1, "a probability")
    checks.count("hypotheses", hypotheses, minimum=1)
    checks.choice("reset", reset, ("prior", "inflate"))

    def init(params: Tree, x: Any = None, y: Any = None, mask: Any = None) -> ChangepointBelief:
        prior = started(filter, params, x, y, mask)
        stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (hypotheses, *jnp.shape(leaf))), prior)
        log_weights = jnp.full(hypotheses, -jnp.inf, tree.wide_dtype(prior.mean)).at[0].set(0)
        return ChangepointBelief(stacked, log_weights, jnp.zeros(hypotheses, jnp.int32), prior)

    def changed(state: ChangepointBelief) -> Any:
        return state.prior if reset == "prior" else with_mean(state.prior, state.belief.mean)

    def ahead(state: ChangepointBelief) -> tuple[Array, Array]:
        """Log weights and run lengths with that of a change appended."""
        chance = jnp.asarray(hazard, state.log_weights.dtype)
        stay, change = state.log_weights + jnp.log1p(-chance), jax.nn.logsumexp(state.log_weights) + jnp.log(chance)
        return jnp.append(stay, change), jnp.append(state.run_lengths + 1, 0)

    def predict(state: ChangepointBelief, **dynamics: Tree) -> ChangepointBelief:
        checks.instance("belief", state, ChangepointBelief, "start from the changepoint filter's own init")
        state = _pruned(state, hypotheses)
        moved = jax.vmap(lambda one: filter.predict(one, **dynamics))(state.hypotheses)
        return ChangepointBelief(_appended(moved, changed(state)), *ahead(state), state.prior)

    def update(
        state: ChangepointBelief, x: Any, y: Any, mask: Any = None, weights: Any = None
    ) -> tuple[ChangepointBelief, Info]:
        checks.instance("belief", state, ChangepointBelief, "start from the changepoint filter's own init")
        after, infos = jax.vmap(lambda one: filter.update(one, x, y, mask, **if_given(weights)))(state.hypotheses)
        return _weighed(state._replace(hypotheses=after), infos, hypotheses)

    def step(
        state: ChangepointBelief, x: Any, y: Any, mask: Any = None, weights: Any = None, **dynamics: Tree
    ) -> tuple[ChangepointBelief, Info]:
        checks.instance("belief", state, ChangepointBelief, "start from the changepoint filter's own init")
        state = _pruned(state, hypotheses)
        moved = jax.vmap(lambda one: filter.step(one, x, y, mask, **if_given(weights), **dynamics))(state.hypotheses)
        new, info = filter.update(changed(state), x, y, mask, **if_given(weights))
        after, infos = _appended(moved, (new, info))
        return _weighed(ChangepointBelief(after, *ahead(state), state.prior), infos, hypotheses)

    return Filter(init, predict, update, step, filter.check)


def _appended(stack: Any, one: Any) -> Any:
    return jax.tree.map(lambda many, last: jnp.concatenate([many, last[None]]), stack, one)


def _weighed(state: ChangepointBelief, infos: Info, count: int) -> tuple[ChangepointBelief, Info]:
    """Hypotheses that have seen the data, weighed by what each had expected of them."""
    before, evidence = state.log_weights, infos.log_evidence
    sound = jnp.isfinite(evidence) if infos.diverged is None else jnp.isfinite(evidence) & ~infos.diverged
    joint = before + jnp.where(sound, evidence, -jnp.inf)
    total = jax.nn.logsumexp(joint)
    state = _kept(state._replace(log_weights=jnp.where(jnp.isfinite(total), joint - total, before)), count)
    record: Info = jax.tree.map(lambda leaf: leaf[jnp.argmax(before)], infos._replace(site=None))
    found = {
        "run_length": state.run_lengths[0],
        "change": jnp.sum(jnp.where(state.run_lengths == 0, jnp.exp(state.log_weights), 0)),
    }
    if infos.outputs is not None:
        shares = jnp.exp(before).astype(infos.outputs.dtype)
        record = record._replace(outputs=jnp.tensordot(shares, infos.outputs, axes=1, precision=tree.HIGHEST))
    return state, record._replace(log_evidence=total, dynamics=(record.dynamics or {}) | found)


def _kept(state: ChangepointBelief, count: int) -> ChangepointBelief:
    """The ``count`` most probable hypotheses in order, their weights adding up to one."""
    log_weights, order = jax.lax.top_k(state.log_weights, min(count, len(state.log_weights)))
    chosen = jax.tree.map(lambda leaf: leaf[order], state.hypotheses)
    log_weights = log_weights - jax.nn.logsumexp(log_weights)
    return state._replace(hypotheses=chosen, log_weights=log_weights, run_lengths=state.run_lengths[order])


def _pruned(state: ChangepointBelief, count: int) -> ChangepointBelief:
    """Of a state that was predicted and not updated, which has one more."""
    return _kept(state, count) if len(state.log_weights) > count else state
