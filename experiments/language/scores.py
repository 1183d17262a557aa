"""What is reported of a trained model, in nats per token where not said otherwise."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.language.models import Language
from latenttrack import gaussian_process as gp
from latenttrack.gaussian_process import latent, regime

HORIZONS = (1, 2, 4, 8, 16, 32)
_GROUP = 4


def _over(function: Callable, windows: Array, seed: int = 0) -> Any:
    """Results for each window, one at a time."""
    keys = jax.random.split(jax.random.key(seed), len(windows))
    return jax.lax.map(lambda pair: function(*pair), (keys, windows))


@functools.partial(jax.jit, static_argnums=0)
def autoregressive(model: Language, params: Any, windows: Array) -> Array:
    """−log p(x_t | x_{<t}), mean."""
    return _over(lambda key, tokens: model.loss(params, key, tokens, jnp.ones(())), windows).mean()


@functools.partial(jax.jit, static_argnums=(0, 3))
def bounds(model: Language, params: Any, windows: Array, samples: int) -> dict[str, Array]:
    """Negative ELBO and IWAE, their parts, and the divergence of each channel."""
    gaussian = _gaussian(model)
    found = _over(lambda key, tokens: gaussian.bound(params, key, tokens, samples=samples), windows)
    length = windows.shape[1]
    return {
        "negative ELBO": -found.elbo.mean() / length,
        "IWAE": -found.iwae.mean() / length,
        "KL": found.divergence.sum(1).mean() / length,
        "channels": found.divergence.mean(0) / length,
    }


@functools.partial(jax.jit, static_argnums=0)
def reconstruction(model: Language, params: Any, windows: Array) -> Array:
    """−log p(x_t | z) at the posterior mean of z, whose encoder has seen x_t: no prediction."""
    gaussian = _gaussian(model)
    config = model.config
    assert config is not None

    def one(key: Array, tokens: Array) -> Array:
        del key
        q = gaussian.encode(params, tokens)
        mean = latent.posterior(config, params["process"], q).mean
        logits = jax.nn.log_softmax(gaussian.decode(params, mean, tokens), -1)
        own = jnp.take_along_axis(logits, tokens.reshape(-1, *(1,) * (logits.ndim - 1)), -1)[..., 0]
        if own.ndim == 2:
            chain = jax.nn.log_softmax(params["first"]), jax.nn.log_softmax(params["switch"], -1)
            own = regime.forward(*chain, own)[1]
        return -own.mean()

    return _over(one, windows).mean()


def prequential(model: Language, params: Any, windows: Array, samples: int, horizon: int) -> float:
    """−log p(x_t | x_{≤ t − horizon}), mean; a few windows at a time, compiled once for all horizons."""
    gaussian, found = _gaussian(model), []
    for start in range(0, len(windows), _GROUP):
        part = windows[start : start + _GROUP]
        keys = jax.random.split(jax.random.key(start), len(part))
        score = functools.partial(gaussian.predictive, params, samples=samples, horizon=horizon)
        found.append(np.asarray(jax.vmap(score)(keys, part)))
    return -float(np.concatenate(found).mean())


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def written(model: Language, params: Any, steps: int, count: int) -> Array:
    """So many texts [count, steps] of a model."""
    keys = jax.random.split(jax.random.key(5), count)
    if model.gaussian is not None:
        return jax.vmap(lambda key: _gaussian(model).generate(params, key, steps))(keys)
    next_token = model.next_token
    assert next_token is not None

    def one(key: Array) -> Array:
        def body(tokens: Array, time: Array) -> tuple[Array, None]:
            drawn = jax.random.categorical(jax.random.fold_in(key, time), next_token(params, tokens)[time])
            return tokens.at[time].set(drawn), None

        return jax.lax.scan(body, jnp.zeros(steps, jnp.int32), jnp.arange(steps))[0]

    return jax.vmap(one)(keys)


def speed(model: Language, params: Any, steps: int, count: int) -> float:
    """Tokens per second of generation, compiled, the best of three."""
    jax.block_until_ready(written(model, params, steps, count))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(written(model, params, steps, count))
        times.append(time.perf_counter() - began)
    return steps * count / min(times)


def names(model: Language, window: int) -> list[str]:
    """The scores that a model has."""
    if model.config is None:
        return ["nll"]
    found = ["negative ELBO", "IWAE", "KL", "reconstruction, real text", "reconstruction, own text", "judged samples"]
    if model.config.refusal is None:
        last = 1 if model.config.decoder == "autoregressive" else window // 2
        found += [_prequential(horizon) for horizon in HORIZONS if horizon <= last]
    return found


def _prequential(horizon: int) -> str:
    return "prequential" if horizon == 1 else f"horizon {horizon}"


def all_of(model: Language, params: Any, windows: np.ndarray, judge: Sequence[Any], samples: int) -> dict[str, float]:
    """Every score that a model has; ``judge`` is an autoregressive model and its parameters."""
    tokens = jnp.asarray(windows)
    if model.gaussian is None:
        return {"nll": float(autoregressive(model, params, tokens))}
    texts = written(model, params, windows.shape[1], 16)
    bound = bounds(model, params, tokens, samples)
    found = {name: bound[name] for name in ("negative ELBO", "IWAE", "KL")}
    found |= {
        "reconstruction, real text": reconstruction(model, params, tokens),
        "reconstruction, own text": reconstruction(model, params, texts),
        "judged samples": autoregressive(*judge, texts),
    }
    for horizon in HORIZONS:
        if _prequential(horizon) in names(model, windows.shape[1]):
            found[_prequential(horizon)] = prequential(model, params, tokens, samples, horizon)
    return {name: float(value) for name, value in found.items()}


def channels(model: Language, params: Any, windows: np.ndarray, samples: int) -> dict[str, np.ndarray]:
    """KL of each channel in nats per token beside its length scale in tokens, the shortest first."""
    divergence = np.asarray(bounds(model, params, jnp.asarray(windows), samples)["channels"])
    scales = np.exp(np.asarray(params["process"]["log_lengthscale"]))
    order = np.argsort(scales)
    return {"length scale": scales[order], "KL": divergence[order]}


def _gaussian(model: Language) -> gp.Model:
    assert model.gaussian is not None
    return model.gaussian
