"""The weight-space filter on a stream: the weights of a network are the state, absorbed one observation at a time.

There is no training: ``init`` draws the prior mean, and the whole stream is filtered once.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import lowrank_filter as lf
from experiments.streaming.models import parts
from experiments.streaming.models.entry import Entry
from experiments.streaming.models.parts import StreamFunctions
from latenttrack import Aux, Outputs
from latenttrack.algebra import gaussian

Noise = Literal["heteroscedastic", "constant"]


@functools.lru_cache
def build(
    x_dim: int,
    y_dim: int,
    *,
    rank: int = 5,
    hidden: tuple[int, ...] = (32, 32),
    noise: Noise = "heteroscedastic",
    floor: float = parts.FLOOR,
) -> StreamFunctions:
    """The extended Kalman filter of a perceptron's weights for one target.

    Its parameters are the prior mean and the filter's numbers, all traced: ``process_noise``, ``precision``,
    ``outlier_threshold`` in standard deviations, and ``variance`` (of the observation, where ``noise`` is "constant").
    """
    if y_dim != 1:
        raise ValueError(f"y_dim: expected 1, got {y_dim}; the weight filter here has one target")
    outputs = 2 if noise == "heteroscedastic" else 1

    def apply_fn(weights: Any, x: Float[Array, "B x"]) -> Float[Array, "B C"]:
        return parts.network(weights, x)

    def filter_of(params: Any) -> lf.Filter:
        likelihood = lf.HeteroscedasticGaussian() if outputs == 2 else lf.Gaussian(params["variance"])
        return lf.extended_filter(
            apply_fn,
            likelihood,
            rank=rank,
            precision=params["precision"],
            process_noise=params["process_noise"],
            outlier_threshold=params["outlier_threshold"],
        )

    def init(key: Array) -> dict[str, Any]:
        return {
            "weights": parts.layers(key, (x_dim, *hidden, outputs)),
            "precision": jnp.asarray(10.0),
            "process_noise": jnp.asarray(1e-6),
            "variance": jnp.asarray(0.8),
            "outlier_threshold": jnp.asarray(10.0),
        }

    def initial_state(params: Any) -> lf.Belief:
        return filter_of(params).init(params["weights"])

    def rollout(
        params: Any, key: Array, xs: Array, ys: Array, state: Any = None, samples: int = 1, mask: Any = None
    ) -> tuple[lf.Belief, Outputs]:
        ys, observed = parts.present(ys, mask)
        filter_ = filter_of(params)

        def body(belief: lf.Belief, inputs: tuple) -> tuple[lf.Belief, Outputs]:
            x, y, seen = inputs
            belief = filter_.predict(belief)
            ahead = lf.predictive(belief, apply_fn, x[None])
            aleatoric = jnp.exp(ahead.mean[0, 1:]) if outputs == 2 else params["variance"][None]
            mean, variance = ahead.mean[:, :1], floor + aleatoric[None] + ahead.covariance[:, :1, 0]
            score = seen * gaussian.log_density(y, mean[0], variance[0])
            target = y if outputs == 1 else y[0]
            belief, _ = filter_.update(belief, x[None], target[None], seen[None] > 0)
            return belief, Outputs(mean, variance, score)

        return jax.lax.scan(body, initial_state(params) if state is None else state, (xs, ys, observed))

    def loss(*_: Any, **__: Any) -> tuple[Array, Aux]:
        raise TypeError("the weight filter has no training loss: filter the training stream with rollout instead")

    return StreamFunctions(init, initial_state, rollout, loss)


MODELS = {
    "weight_filter": Entry(
        lambda x, y, _, **sizes: build(x, y, **sizes),
        trained=False,
        grid={"process_noise": (1e-7, 1e-6, 1e-5, 1e-4), "outlier_threshold": (10.0, 30.0)},
    )
}
