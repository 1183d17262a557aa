"""A Gaussian process of the residual: y_t = D x_t + b + f_t + ε_t, f a sum of Matérn processes of three orders.

Length scales, variances, D and b are trained on the log evidence of the training span, which is the sum of what each
step says before its y is seen; filtering is exact and O(1) a step.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.streaming.models import parts
from experiments.streaming.models.entry import Entry
from experiments.streaming.models.parts import StreamFunctions
from latenttrack import Outputs
from latenttrack import gaussian_process as gp
from latenttrack.algebra import gaussian

ORDERS = (0.5, 1.5, 2.5)


@functools.lru_cache
def build(
    x_dim: int, y_dim: int, *, lengthscales: tuple[float, ...] = (100.0, 20.0, 4.0), floor: float = parts.FLOOR
) -> StreamFunctions:
    """The process of one target, from length scales in steps; its state is the predicted belief about (f, f′, …)."""
    if y_dim != 1:
        raise ValueError(f"y_dim: expected 1, got {y_dim}; the process here has one target")

    def init(key: Array) -> dict[str, Array]:
        return {
            "lengthscale": jnp.log(jnp.asarray(lengthscales)),
            "variance": jnp.full(len(ORDERS), -1.5),
            "noise": jnp.zeros(()),
            "input": 0.01 * jax.random.normal(key, (x_dim,)),
            "bias": jnp.zeros(()),
        }

    def process(params: Any) -> gp.StateSpace:
        scales, variances = jnp.exp(params["lengthscale"]), jnp.exp(params["variance"])
        return gp.add(*(gp.matern(*each) for each in zip(ORDERS, scales, variances, strict=True)))

    def initial_state(params: Any) -> gp.Belief:
        return gp.init(process(params))

    def rollout(
        params: Any, key: Array, xs: Array, ys: Array, state: Any = None, samples: int = 1, mask: Any = None
    ) -> tuple[gp.Belief, Outputs]:
        ys, observed = parts.present(ys, mask)
        model, noise = process(params), floor + jnp.exp(params["noise"])
        trend = xs @ params["input"] + params["bias"]

        def body(belief: gp.Belief, inputs: tuple) -> tuple[gp.Belief, Outputs]:
            shift, y, seen = inputs
            mean, variance = (shift + belief.mean[0])[None], (belief.covariance[0, 0] + noise)[None]
            score = seen * gaussian.log_density(y, mean, variance)
            after, _ = gp.update(belief, gp.Site(y[0] - shift, seen / noise))
            return gp.predict(model, after), Outputs(mean[None], variance[None], score)

        return jax.lax.scan(body, initial_state(params) if state is None else state, (trend, ys, observed))

    return StreamFunctions(init, initial_state, rollout, parts.by_evidence(rollout))


MODELS = {"gp": Entry(lambda x, y, _, **sizes: build(x, y, **sizes), side_by_side=True)}
