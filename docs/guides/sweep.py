"""A sweep over hyperparameters and seeds by vmap.

Noise, prior precision, temperature and learning rates are traced, so a grid of them times a set of seeds is two
`vmap`s around one program. The filter is built inside the function that is mapped, because its hyperparameters are
arguments there. The evidence ranks the settings without a validation set; a held-out score is one more line.
"""

import jax
import jax.numpy as jnp

import lowrank_filter as lf


def data(key):
    xs, flips = jax.random.split(key)
    x = jax.random.normal(xs, (200, 2))
    angle = jnp.arange(200) * 0.02  # the boundary turns
    y = (x[:, 0] * jnp.cos(angle) + x[:, 1] * jnp.sin(angle) > 0).astype(int)
    return x, jnp.where(jax.random.uniform(flips, (200,)) < 0.05, 1 - y, y)


def apply_fn(params, x):
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]


def one(noise, precision, key):
    first, second, third = jax.random.split(key, 3)
    params = {
        "w1": jax.random.normal(first, (2, 10)),
        "b1": jnp.zeros(10),
        "w2": jax.random.normal(second, (10, 2)) / 3,
    }
    stream = lf.extended_filter(apply_fn, lf.Categorical(), rank=5, precision=precision, process_noise=noise)
    _, steps = lf.filter_stream(stream, stream.init(params), *data(third))
    return steps.info.log_evidence.sum()


noises, precisions = jnp.array([0.0, 1e-3, 1e-2, 1e-1]), jnp.array([1.0, 10.0])
grid = jnp.stack(jnp.meshgrid(noises, precisions, indexing="ij"), axis=-1).reshape(-1, 2)
seeds = jax.random.split(jax.random.key(0), 3)

over_seeds = jax.vmap(one, in_axes=(None, None, 0))
evidence = jax.jit(jax.vmap(over_seeds, in_axes=(0, 0, None)))(grid[:, 0], grid[:, 1], seeds)
mean, error = evidence.mean(1), evidence.std(1, ddof=1) / jnp.sqrt(len(seeds))
for (noise, precision), m, e in zip(grid, mean, error, strict=True):
    print(f"q {noise:.0e}, precision {precision:4.0f}: log evidence {m:7.1f} ± {e:.1f}")
best = grid[jnp.argmax(mean)]
assert evidence.shape == (8, 3) and best[0] > 0  # it drifts, and the evidence says so
