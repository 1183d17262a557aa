"""Gaussian-process posteriors: filter, smoother and divergence against T, beside the dense form and tinygp."""

import functools
import importlib.util
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import memory, report
from latenttrack import gaussian_process as gp
from latenttrack.gaussian_process import dense

CHANNELS, NOISE = 16, 0.5
LENGTHS = (256, 1024, 4096, 16_384)
SCALES = jnp.geomspace(2.0, 50.0, CHANNELS)


def state_space(order: float, *, parallel: bool = False, together: bool = True) -> Callable[[jax.Array], Any]:
    """All of the posterior of 16 channels [16, T], together or one after another."""

    def one(scale: jax.Array, y: jax.Array) -> gp.Posterior:
        return gp.posterior(gp.matern(order, scale), gp.Site(y, jnp.full_like(y, 1 / NOISE)), parallel=parallel)

    if not together:
        return lambda ys: jax.lax.map(lambda pair: one(*pair), (SCALES, ys))
    return lambda ys: jax.vmap(one)(SCALES, ys)


def by_cholesky(ys: jax.Array) -> Any:
    """The same by dense factors, one channel at a time."""

    def one(pair: tuple) -> gp.Posterior:
        scale, y = pair
        lag = jnp.abs(jnp.arange(len(y))[:, None] - jnp.arange(len(y)))
        return dense.posterior(jnp.exp(-lag / scale), gp.Site(y, jnp.full_like(y, 1 / NOISE)))

    return jax.lax.map(one, (SCALES, ys))


def tinygp(order: float) -> Callable[[jax.Array], Any]:
    """Evidence and posterior mean by tinygp's quasiseparable kernels: without variances and divergence."""
    from tinygp import GaussianProcess  # noqa: PLC0415  a peer that need not be installed  # pyright: ignore[reportMissingImports]
    from tinygp.kernels import quasisep  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    kind = {0.5: quasisep.Exp, 1.5: quasisep.Matern32, 2.5: quasisep.Matern52}[order]

    def one(scale: jax.Array, y: jax.Array) -> tuple:
        process = GaussianProcess(kind(scale=scale), jnp.arange(len(y), dtype=y.dtype), diag=jnp.full_like(y, NOISE))
        found = process.condition(y)
        return found.log_probability, found.gp.loc

    return lambda ys: jax.vmap(one)(SCALES, ys)


def processor_time(run: Callable, ys: jax.Array, repeats: int) -> tuple[float, float]:
    """Seconds of one core that a call takes, the least of several, and those that compiling took."""
    began = time.process_time()
    jax.block_until_ready(run(ys))
    first, times = time.process_time() - began, []
    for _ in range(repeats):
        began = time.process_time()
        jax.block_until_ready(run(ys))
        times.append(time.process_time() - began)
    return min(times), first - min(times)


def posterior_memory() -> dict[str, dict[str, int]]:
    """Bytes beside its arguments of the posterior of 16 channels, by T."""
    forms: dict[str, tuple[Callable, Sequence[int]]] = {
        "OU": (state_space(0.5), LENGTHS),
        "OU, dense": (by_cholesky, LENGTHS[:3]),
    }

    def needed(run: Callable, length: int) -> int:
        return memory(jax.jit(run), jax.ShapeDtypeStruct((CHANNELS, length), jnp.float32)).temporary

    return {name: {str(length): needed(run, length) for length in lengths} for name, (run, lengths) in forms.items()}


def training(repeats: int = 5) -> dict[str, dict[str, float]]:
    """A gradient step of the language model on 1,024 tokens, in 16 windows or in one, and of its dense form."""
    found = {}
    forms: tuple[Literal["sequential", "block"], ...] = ("sequential", "block")
    for form, length in itertools.product(forms, (64, 1024)):
        model = gp.build(gp.Config(window=length, latent=form), 1024)
        params = model.init(jax.random.key(0))
        keys = jax.random.split(jax.random.key(0), 1024 // length)
        tokens = jax.random.randint(jax.random.key(1), (1024 // length, length), 0, 1024)

        def loss(params: Any, keys: Any, tokens: Any, model: gp.Model = model) -> Any:
            return jax.vmap(lambda key, x: model.loss(params, key, x)[0])(keys, tokens).mean()

        step = jax.jit(jax.grad(loss))
        seconds, _ = processor_time(functools.partial(step, params, keys), tokens, repeats)
        found[f"{form}, {1024 // length} x {length}"] = {
            "bytes": memory(step, params, keys, tokens).temporary,
            "seconds": seconds,
        }
    return found


def main(repeats: int = 15) -> None:
    """The table."""
    forms: dict[str, tuple[Callable, Sequence[int]]] = {
        "OU": (state_space(0.5), LENGTHS),
        "Matérn 3/2": (state_space(1.5), LENGTHS),
        "Matérn 5/2": (state_space(2.5), LENGTHS),
        # Loops over small arrays are compiled whole on a CPU.
        "OU, one channel at a time": (state_space(0.5, together=False), LENGTHS),
        "Matérn 3/2, one channel at a time": (state_space(1.5, together=False), LENGTHS),
        "Matérn 5/2, one channel at a time": (state_space(2.5, together=False), LENGTHS),
        "OU, associative scan": (state_space(0.5, parallel=True), LENGTHS[:3]),
        "OU, dense": (by_cholesky, LENGTHS[:2]),
    }
    if importlib.util.find_spec("tinygp"):
        forms["OU, tinygp (mean and evidence)"] = tinygp(0.5), LENGTHS
        forms["Matérn 5/2, tinygp (mean and evidence)"] = tinygp(2.5), LENGTHS
    rows = []
    for name, (run, lengths) in forms.items():
        timed = []
        for length in lengths:
            ys = jax.random.normal(jax.random.key(0), (CHANNELS, length))
            timed.append(processor_time(jax.jit(run), ys, repeats if length < LENGTHS[-1] else 5))
        times = [seconds for seconds, _ in timed]
        slope = float(np.polyfit(np.log(lengths), np.log(times), 1)[0])
        cells = [f"{1e3 * seconds:.3g}" for seconds in times] + ["–"] * (len(LENGTHS) - len(lengths))
        rows.append((name, *cells, slope, timed[-1][1]))
    columns = ("ms of one core", *(f"T = {length:,}" for length in LENGTHS), "exponent", "to compile, s")
    title = f"Mean, variance, divergence and evidence of {CHANNELS} channels"
    facts = {
        "training": training(),
        "posterior bytes": posterior_memory(),
        "note": "least processor time of repeated calls",
    }
    report("gaussian_process", title, columns, rows, facts)
