"""A model of a stream whose predictions go on being corrected while it runs: a filter of a last layer's weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

import lowrank_filter as lf
from latenttrack import stream_checks
from latenttrack.algebra import gaussian
from latenttrack.interface import Aux, Outputs, Params, StreamModel
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled
from lowrank_filter.kernels.fixed_share import fixed_share

# Prior precision and process noise of each weight; those of the mean in units of the targets, which are of order one.
# With features of order one the prior moves a prediction by a tenth, and what is learned is replaced in about a hundred
# steps: a level that shifts is followed within some dozens, at .005 nats a step where nothing does.
_PRECISION = {"mean": 1e3, "log_variance": 1e2}
_PROCESS_NOISE = {"mean": 1e-5, "log_variance": 1e-5}
_RANK = 8
# What goes from either prediction to the other at each step: of eight components one is always the model's own. After
# jumps in validation spans and in made-up series half and twice as much score alike.
_SHARE = 1 / 16


class AdaptedState(NamedTuple):
    """What is carried from one step to the next.

    Attributes:
        inner: the model's own state.
        belief: about the weights W of the correction.
        doubt: probability of the model's own prediction, against the corrected one.
    """

    inner: Any
    belief: lf.Belief
    doubt: Float[Array, ""]


class Adapted(NamedTuple):
    """The functions of a :class:`StreamModel`; ``rollout`` also takes ``channels``, where that of the model does."""

    init: Callable[..., Params]
    initial_state: Callable[..., AdaptedState]
    rollout: Callable[..., tuple[AdaptedState, Outputs]]
    loss: Callable[..., tuple[Array, Aux]]


def adapted(model: StreamModel, features: Callable[..., Array], *, width: int, y_dim: int) -> Adapted:
    """A model that corrects what another one predicts, by what it has seen since.

    With m and s² mean and variance of the mixture that ``model`` predicts, and φ the features,

        y = m + W₁φ + e^{W₂φ/2} (y₀ − m),   y₀ ~ the mixture,

    W being a random walk that a low-rank filter (:func:`lowrank_filter.update`, LO-FI) absorbs y into, as
    (y − m)/s ~ N(W₁φ/s, e^{W₂φ}): a last layer more, for mean and log variance, that is Bayesian and never stops
    learning. The uncertainty of W₁ is added to the variance; the factor is E e^{W₂φ}. W is 0 at first, and training is
    that of ``model``: parameters that were trained without a correction are the same with one.

    A correction that has narrowed what is predicted pays for it when a sensor jumps. So the prediction is a mixture of
    both, by the evidence of what came since (fixed share, Herbster & Warmuth 1998):

        (1 − d) p_corrected + d p_model,   d⁺ = a + (1 − 2a) d p_model(y) / ((1 − d) p_corrected(y) + d p_model(y)).

    In n steps it loses no more than log 2 + n log 1/(1 − a) to the better of the two, a = 1/16, and log 1/a each time
    that they change places. Of K equal components ⌊dK + ½⌋ are the model's own, the widest first and the others evenly
    by their width, so that its tails are there too; with fewer than eight there may be none.

    Args:
        model: any object with the functions of a :class:`StreamModel`, of targets of order one.
        features: (params, the model's state before x, x) → φ [width], of order one; a 1 among them learns an offset.
        width: how many features there are.
        y_dim: channels of y.

    Raises:
        TypeError: ``model`` is none; ``features`` is no function.
        ValueError: a size is not a static integer ≥ 1.

    Examples:
        >>> model = lt.build(lt.Config(latent_dim=2, hidden_dim=3, prior_samples=2), x_dim=1, y_dim=1)
        >>> constant = lambda params, state, x: jnp.ones(1)  # learns an offset and a scale
        >>> corrected = lt.adapted(model, constant, width=1, y_dim=1)
        >>> params, xs = model.init(jax.random.key(0)), jnp.zeros((500, 1))
        >>> state, outputs = lt.rollout(corrected, params, jax.random.key(1), xs, xs + 5.0)
        >>> bool(outputs.log_prob[-1] > outputs.log_prob[0])
        True
    """
    stream_checks.model(model)
    checks.function("features", features, "(params, state, x) -> features [width]")
    for name, value in (("width", width), ("y_dim", y_dim)):
        checks.count(name, value, minimum=1)
    inner_of: Any = model

    def outputs(weights: Any, x: Float[Array, "B inputs"]) -> Float[Array, "B outputs"]:
        phi, scale = x[:, :-y_dim], x[:, -y_dim:]
        return jnp.concatenate([phi @ weights["mean"] / scale, phi @ weights["log_variance"]], axis=1)

    correction = lf.extended_filter(
        outputs, lf.HeteroscedasticGaussian(), rank=_RANK, precision=_PRECISION, process_noise=_PROCESS_NOISE
    )

    def initial_state(params: Params) -> AdaptedState:
        """Nothing seen."""
        zeros = jnp.zeros((width, y_dim), jnp.result_type(*jax.tree.leaves(params)))
        belief = correction.init({"mean": zeros, "log_variance": zeros})
        return AdaptedState(inner_of.initial_state(params), belief, jnp.full((), 0.5, zeros.dtype))

    def rollout(
        params: Params,
        key: Any,
        xs: Float[Array, "T x_dim"],
        ys: Float[Array, "T y_dim"],
        state: AdaptedState | None = None,
        samples: int = 32,
        mask: Bool[Array, " T"] | None = None,
        channels: Bool[Array, "T y_dim"] | None = None,
    ) -> tuple[AdaptedState, Outputs]:
        """Predict, correct, score, then update both, at each step of a stream, in one ``lax.scan``."""
        xs, ys, mask = stream_checks.stream(xs, ys, mask, None, y_dim)
        ys, channels = stream_checks.channels(ys, channels)
        stream_checks.finite_stream(xs, ys, mask)
        checks.count("samples", samples, minimum=1)
        state = initial_state(params) if state is None else state
        checks.instance("state", state, AdaptedState, "take it from initial_state or rollout of this model")
        return compiled(_rollout, params, checks.key("key", key), xs, ys, state, mask, channels, samples=samples)

    def _rollout(
        params: Params, key: Any, xs: Any, ys: Any, state: AdaptedState, mask: Any, channels: Any, *, samples: int
    ) -> tuple[AdaptedState, Outputs]:
        def body(state: AdaptedState, inputs: tuple) -> tuple[AdaptedState, Outputs]:
            x, y, seen, parts = inputs
            row = jax.tree.map(lambda leaf: leaf[None], inputs)
            options = {} if parts is None else {"channels": row[3]}
            phi = features(params, state.inner, jnp.where(jnp.isfinite(x), x, 0))
            checks.shape("features", phi, (width,), "return as many features as width says, or change width")
            inner, found = inner_of.rollout(params, key, row[0], row[1], state.inner, samples, row[2], **options)
            counts = jnp.ones((), bool) if seen is None else seen
            if found.invalid is not None:
                counts = counts & ~found.invalid[0]
            y, mean, variance = jnp.where(counts, y, 0), found.mean[0], found.variance[0]
            centre = jnp.mean(mean, axis=0)
            scale = jnp.sqrt(jnp.mean(variance, axis=0) + jnp.var(mean, axis=0))
            belief = correction.predict(state.belief)
            x = jnp.concatenate([phi, scale])[None]
            ahead = lf.predictive(belief, outputs, x)
            moved, log_factor = jnp.split(ahead.mean[0], 2)
            unsure, spread = jnp.split(jnp.diagonal(ahead.covariance[0]), 2)
            factor = jnp.exp(log_factor + spread / 2)
            mean = jnp.stack([mean, centre + scale * moved + jnp.sqrt(factor) * (mean - centre)])
            variance = jnp.stack([variance, factor * variance + jnp.square(scale) * unsure])
            densities = gaussian.log_density(y, mean, variance, parts)
            own = _own(state.doubt, variance[0])
            mean, variance = (jnp.where(own[:, None], *leaf) for leaf in (mean, variance))
            score = gaussian.mixture(jnp.where(own, *densities))
            doubt = _doubted(state.doubt, jnp.where(counts, jnp.subtract(*gaussian.mixture(densities)), 0))
            took = counts[None] if parts is None else (counts & parts)[None]
            belief, _ = correction.update(belief, x, ((y - centre) / scale)[None], took)
            invalid = None if found.invalid is None else found.invalid[0]
            predicted = Outputs(mean, variance, jnp.where(counts, score, jnp.nan), invalid)
            return AdaptedState(inner, belief, doubt), predicted

        return jax.lax.scan(body, state, (xs, ys, mask, channels))

    def loss(
        params: Params, key: Any, xs: Any, ys: Any, state: AdaptedState, mask: Any = None, **options: Any
    ) -> tuple[Float[Array, ""], Aux]:
        """That of the model alone."""
        total, aux = inner_of.loss(params, key, xs, ys, state.inner, mask, **options)
        return total, aux._replace(state=state._replace(inner=aux.state))

    return Adapted(inner_of.init, initial_state, rollout, loss)


def _own(doubt: Float[Array, ""], variance: Float[Array, "K y_dim"]) -> Bool[Array, " K"]:
    """Which components are the model's own: as many as the doubt has, evenly from the widest on."""
    count = len(variance)
    taken = jnp.floor(count * doubt + 0.5).astype(int)
    order = jnp.argsort(-jnp.sum(jnp.log(variance), axis=-1))
    return jnp.zeros(count, bool).at[order].set(jnp.arange(count) * taken % count < taken)


def _doubted(doubt: Float[Array, ""], evidence: Float[Array, ""]) -> Float[Array, ""]:
    """After a target that the model's own prediction gives so many nats more; NaN, two densities of zero, is none."""
    return fixed_share(doubt, jnp.where(jnp.isnan(evidence), 0, evidence), _SHARE)
