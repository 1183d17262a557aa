"""Many steps ahead, by rolling the prior."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from latenttrack import metrics, stream_checks
from latenttrack.interface import Outputs, Params, State, StreamModel
from lowrank_filter.common import checks


def forecast(
    model: StreamModel,
    params: Params,
    key: Key[Array, ""],
    state: State,
    xs: Float[Array, "T x_dim"],
    ys: Float[Array, "T y_dim"] | None = None,
    *,
    samples: int = 32,
) -> Outputs:
    """The mixtures for 1 … T steps after ``state``, none of whose targets is seen.

    A rollout with every target masked: the summary stays as it is, and the belief about z moves with the prior.

    Args:
        state: of a rollout's end.
        xs: the inputs of those steps; what is not known ahead must be left out of x, or filled by the caller.
        ys: only to score with; ``log_prob`` is 0 without them. Needed for a model without ``predict``, ``generate``
            and ``emit``, whose outputs' width is not known otherwise.

    Raises:
        ValueError: no ``ys`` for such a model; shapes are wrong.
    """
    stream_checks.model(model)
    key = checks.key("key", key)
    if state is None:
        raise ValueError(
            "state: expected that of a rollout's end, got None; model.initial_state(params) has seen nothing"
        )
    xs, given = stream_checks.rows("xs", xs), ys is not None
    if not given:
        ys = jnp.zeros((len(xs), _width(model, params, state, xs)), xs.dtype)
    xs, ys, _ = stream_checks.stream(xs, ys, None)
    unseen = jnp.zeros(len(xs), bool)
    _, outputs = model.rollout(params, key, xs, ys, state, samples=samples, mask=unseen)
    return outputs._replace(log_prob=-metrics.nll(ys, outputs.mean, outputs.variance)) if given else outputs


def _width(model: Any, params: Params, state: State, xs: Array) -> int:
    if not all(hasattr(model, name) for name in ("predict", "generate", "emit")):
        raise ValueError(
            "ys: expected the targets [T, y_dim], got None, for a model without predict, generate and emit; "
            "pass zeros of that shape to forecast without scores"
        )
    prior = model.predict(params, state)
    theta = jax.eval_shape(model.generate, params, prior.mean, state)
    return jax.eval_shape(model.emit, theta, xs[0])[0].shape[-1]
