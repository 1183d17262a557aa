"""Long streams in few bits: positive definite after 10,000 steps, and what bfloat16 storage costs."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_digits

import lowrank_filter as lf

IN, HIDDEN, RANK = 6, 5, 4
STRUCTURES = ("network", "unit")


def net(params, x):
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]


def network(sizes, seed=0):
    rng = np.random.default_rng(seed)
    inputs, hidden, outputs = sizes
    shapes = {"b1": (hidden,), "w1": (inputs, hidden), "w2": (hidden, outputs)}
    return {name: jnp.asarray(rng.normal(size=s) / np.sqrt(s[0]), jnp.float32) for name, s in shapes.items()}


def densified(belief):
    """P in float64, of the numbers as they are stored."""
    wide = lf.store(belief, jnp.float32).precision
    row, _ = ravel_pytree(belief.mean)
    parts = [wide] if isinstance(wide, lf.DiagLowRank) else wide.parts
    assert all(leaf.dtype == jnp.float32 for part in parts for leaf in jax.tree.leaves(part.factor))
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), wide)
        like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), belief.mean)
        back = ravel_pytree(like)[1]
        columns = jax.vmap(lambda e: ravel_pytree(exact.matvec(back(e)))[0])(jnp.eye(row.size))
        return np.asarray(columns)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_kernels_give_back_what_they_were_given(structure):
    belief = lf.store(lf.init(network((IN, HIDDEN, 1)), rank=RANK, structure=structure), jnp.bfloat16)
    x, y = np.ones((3, IN), np.float32), np.ones(3, np.float32)

    def step(belief):
        belief = lf.predict(belief, 0.01)
        belief, info = lf.update(belief, net, lf.Gaussian(0.5), x, y, process_noise=0.01)
        after, second = lf.laplace_update(belief, belief.mean, net, lf.Gaussian(0.5), x, y)
        return after, info.site, second.site

    for given, came in zip(
        jax.tree.leaves((belief, *[belief.precision] * 2)), jax.tree.leaves(jax.eval_shape(step, belief)), strict=True
    ):
        assert (given.dtype, given.shape) == (came.dtype, came.shape)
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(lf.store(belief, jnp.float32).precision))
    saved = sum(leaf.nbytes for leaf in jax.tree.leaves(belief.precision))
    diagonal = sum(leaf.nbytes for leaf in jax.tree.leaves(belief.mean))
    assert saved == diagonal + (kept - diagonal) // 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_positive_definite_after_ten_thousand_steps(structure, dtype):
    """Precise data, repeated examples among them, and very little process noise: P grows to 1e7."""
    rng = np.random.default_rng(0)
    chunks, steps = 10, 1000
    x = rng.normal(size=(chunks, steps, IN)).astype(np.float32)
    x[:, ::3] = x[:, :1]
    y = np.sin(x.sum(axis=2)) + 1e-2 * rng.normal(size=(chunks, steps))
    built = lf.extended_filter(net, lf.Gaussian(1e-4), rank=RANK, structure=structure, process_noise=1e-9, health=True)
    belief = lf.store(built.init(network((IN, HIDDEN, 1))), dtype)
    run = jax.jit(lambda belief, x, y: lf.filter_stream(built, belief, x, y))
    for part in range(chunks):
        belief, stream = run(belief, x[part], y[part].astype(np.float32))
        matrix = densified(belief)
        assert np.isfinite(matrix).all() and np.isfinite(stream.info.log_evidence).all()
        assert np.linalg.eigvalsh(matrix).min() > 0
        np.linalg.cholesky(matrix)
        assert (np.asarray(stream.info.health.innovation) >= 0).all()
    assert np.linalg.eigvalsh(matrix).max() > 1e6


def divergence(p, q):
    """KL(p ‖ q) of beliefs, in nats."""
    (a, first), (b, second) = ((np.asarray(ravel_pytree(n.mean)[0], np.float64), densified(n)) for n in (p, q))
    size, shift = len(a), a - b
    ratio = np.linalg.solve(first, second)
    return 0.5 * (np.trace(ratio) - size + shift @ second @ shift + dense.logdet(first) - dense.logdet(second))


@pytest.mark.slow
def test_what_bfloat16_costs_after_a_thousand_digits():
    pixels, labels = load_digits(return_X_y=True)
    x, y = (pixels.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16) / 16).astype(np.float32), labels
    built = lf.extended_filter(net, lf.Categorical(), rank=10, precision=1.0, process_noise=1e-6)
    start = built.init(network((16, 12, 10)))
    run = jax.jit(lambda belief: lf.filter_stream(built, belief, x[:1000], y[:1000]))
    full, usual = run(start)
    half, stream = run(lf.store(start, jnp.bfloat16))
    loss, expected = (float(s.info.loss[-500:].mean()) for s in (stream, usual))
    deviations = jax.tree.map(jnp.sqrt, lf.inverse_diagonal(full.precision))
    apart = jax.tree.map(lambda a, b, s: jnp.abs(a - b) / s, half.mean, full.mean, deviations)
    shift = float(jnp.sqrt(jnp.mean(ravel_pytree(apart)[0] ** 2)))
    kl, moved = divergence(full, half), divergence(full, start)
    print(f"KL {kl:.3f} of {moved:.1f} nats, means {shift:.3f} deviations apart, loss {loss:.4f} / {expected:.4f}")
    assert kl < 0.01 * moved
    assert shift < 0.3
    assert abs(loss - expected) < 0.02
