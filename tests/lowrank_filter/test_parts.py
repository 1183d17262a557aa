"""A structure for each part of a network, against dense float64: blocks in the belief, coupled through the outputs.

LoRA-like subsets, a neural-linear model and a low-rank body under a dense head are one line each.
"""

import functools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import lowrank_filter as lf

pytestmark = pytest.mark.usefixtures("x64")

FULL = 12  # no part is larger: nothing is truncated
RNG = np.random.default_rng(0)
PARAMS = {
    "body": {"w": RNG.normal(size=(3, 2)), "b": np.zeros(2)},
    "head": {"w": RNG.normal(size=(2, 2)), "b": np.ones(2)},
}
# What learns, and which of it is one block.
PARTS = {
    "LoRA": (lf.Frozen(), {"w": lf.LowRank(FULL), "b": lf.Frozen()}),
    "neural-linear": (lf.Frozen(), lf.Dense()),
    "low-rank body, dense head": (lf.LowRank(FULL), lf.Dense()),
    "dense body, diagonal head": (lf.Dense(), lf.Diagonal()),
    "diagonal body, dense head": (lf.Diagonal(), lf.Dense()),
}
SLOW = ("LoRA", "dense body, diagonal head", "diagonal body, dense head")
MOST = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PARTS]
LIKELIHOOD = lf.Gaussian(0.3)
X, Y = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 2))
NOISE, DECAY, CENTER = {"body": 0.1, "head": {"w": 0.3, "b": 0.2}}, 0.9, 0.5
D = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))


def net(params, x):
    return jnp.tanh(x @ params["body"]["w"] + params["body"]["b"]) @ params["head"]["w"] + params["head"]["b"]


def structure(name):
    return dict(zip(("body", "head"), PARTS[name], strict=True))


def unravel(row):
    """A function, since double precision is not there when the module is read."""
    return ravel_pytree(jax.tree.map(jnp.asarray, PARAMS))[1](row)


def flat(tree):
    return ravel_pytree(tree)[0]


def numbers(prefix):
    return np.asarray(flat(jax.tree.map(lambda v, sub: jax.tree.map(lambda p: v + 0 * p, sub), prefix, PARAMS)))


def known(name):
    """Which parameters learn, and which pairs of those are of one block."""
    kinds = structure(name)
    labels, learns, alone = [], [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(PARAMS):
        kind = kinds[path[0].key]
        kind = kind[path[1].key] if isinstance(kind, dict) else kind
        labels += [path[0].key] * leaf.size
        learns += [not isinstance(kind, lf.Frozen)] * leaf.size
        alone += [isinstance(kind, lf.Diagonal)] * leaf.size
    labels, learns, alone = map(np.asarray, (labels, learns, alone))
    same = (labels[:, None] == labels[None]) & ~alone[:, None]
    return learns, (same | np.eye(D, dtype=bool))[np.ix_(learns, learns)]


def jacobian(params, learns):
    return np.asarray(jax.jit(jax.jacobian(lambda row: net(unravel(row), X)))(flat(params))).reshape(-1, D)[:, learns]


def start(name):
    return lf.init(PARAMS, 1.5, structure=structure(name))


def seen(belief):
    """What can be asked of a belief without data; matrices are over all parameters, zero where they are frozen."""
    precision = belief.precision
    return {
        "mean": flat(belief.mean),
        "matrix": jax.vmap(lambda row: flat(lf.matvec(precision, unravel(row))))(jnp.eye(D)),
        "inverse": jax.vmap(lambda row: flat(lf.solve(precision, unravel(row))))(jnp.eye(D)),
        "inverse diagonal": flat(lf.inverse_diagonal(precision)),
        "logdet": lf.logdet(precision),
    }


def assert_seen(came, mean, matrix, learns):
    assert dense.relative_error(came["mean"], mean) < 1e-9
    np.testing.assert_array_equal(np.asarray(came["mean"])[~learns], flat(PARAMS)[~learns])
    for name, expected in (("matrix", matrix), ("inverse", np.linalg.inv(matrix))):
        whole = np.zeros((D, D))
        whole[np.ix_(learns, learns)] = expected
        assert dense.relative_error(came[name], whole) < 1e-9, name
    assert dense.relative_error(came["inverse diagonal"], np.diag(whole)) < 1e-9
    assert abs(came["logdet"] - dense.logdet(matrix)) < 1e-9


@functools.partial(jax.jit, static_argnums=1)
def streamed(belief, together):
    """Two predictions and updates, apart or in one call."""
    dynamics = {"process_noise": NOISE, "transition": DECAY, "center": CENTER}
    found = []
    for t in range(2):
        data = (net, LIKELIHOOD, X[2 * t : 2 * t + 2], Y[2 * t : 2 * t + 2])
        ahead = belief if together else lf.predict(belief, **dynamics)
        belief, info = lf.update(ahead, *data, iterations=0, **(dynamics if together else {}))
        found.append((seen(belief), info.log_evidence, info.truncated))
    return found, lf.predictive(belief, net, X).covariance


@pytest.mark.parametrize("name", MOST)
def test_a_stream(name):
    learns, blocks = known(name)
    mean, matrix = np.asarray(flat(PARAMS)), 1.5 * np.eye(learns.sum())
    found, covariance = streamed(start(name), True)
    for t, (came, evidence, truncated) in enumerate(found):
        mean = np.where(learns, DECAY * mean + (1 - DECAY) * CENTER, mean)
        matrix = dense.predict(matrix, numbers(NOISE)[learns], DECAY)
        rows = slice(4 * t, 4 * t + 4)
        slopes = jacobian(unravel(jnp.asarray(mean)), learns)[rows]
        residual = (np.asarray(net(unravel(jnp.asarray(mean)), X)) - Y).ravel()[rows]
        expected = dense.gaussian_log_density(residual, slopes @ np.linalg.solve(matrix, slopes.T) + 0.3 * np.eye(4))
        step, _ = dense.update(np.zeros(learns.sum()), matrix, slopes, np.eye(4) / 0.3, residual / 0.3)
        mean[learns] += step
        matrix = matrix + blocks * (slopes.T @ slopes / 0.3)
        assert_seen(came, mean, matrix, learns)
        assert abs(evidence - expected) < 1e-9 * abs(expected)
        assert truncated < 1e-12 or "diagonal" in name  # which keeps no direction
    slopes = jacobian(unravel(jnp.asarray(mean)), learns).reshape(4, 2, -1)
    expected = np.einsum("bcd,de,bfe->bcf", slopes, np.linalg.inv(matrix), slopes)
    assert dense.relative_error(covariance, expected) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_prediction_apart_is_the_one_within(name):
    for a, b in zip(*(jax.tree.leaves(streamed(start(name), t)) for t in (True, False)), strict=True):
        assert dense.relative_error(a, b) < 1e-9


@jax.jit
def tasks(belief):
    """Two Laplace updates at means that moved, the smoother over them, draws, and an update that sees nothing."""
    beliefs, infos = [], []
    for t in range(2):
        belief = lf.predict(belief, NOISE, DECAY)
        at = jax.tree.map(lambda p, m: jnp.where(m == p, m, m + 0.1), jax.tree.map(jnp.asarray, PARAMS), belief.mean)
        data = (net, LIKELIHOOD, X[2 * t : 2 * t + 2], Y[2 * t : 2 * t + 2])
        belief, info = lf.laplace_update(belief, at, *data)
        beliefs.append(belief)
        infos.append(info)
    stacked, sites = (
        jax.tree.map(lambda *b: jnp.stack(b), *beliefs),
        jax.tree.map(lambda *s: jnp.stack(s), *(i.site for i in infos)),
    )
    smoothed = jax.tree.map(lambda leaf: leaf[0], lf.smooth(stacked, sites, NOISE, DECAY))
    nothing, _ = lf.update(belief, net, LIKELIHOOD, X, Y, mask=jnp.zeros(4, bool))
    evidence = jnp.stack([info.log_evidence for info in infos])
    return (
        [seen(b) for b in beliefs],
        seen(smoothed),
        evidence,
        lf.sample(jax.random.key(4), belief, 3000),
        belief,
        nothing,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_tasks(name):
    learns, blocks = known(name)
    mean, matrix = np.asarray(flat(PARAMS)), 1.5 * np.eye(learns.sum())
    found, smoothed, evidence, draws, belief, nothing = tasks(start(name))
    means, matrices = [], []
    for t, came in enumerate(found):
        before = dense.predict(matrix, numbers(NOISE)[learns], DECAY)
        ahead = np.where(learns, DECAY * mean, mean)
        mean = np.where(ahead == flat(PARAMS), ahead, ahead + 0.1)
        rows = slice(4 * t, 4 * t + 4)
        slopes = jacobian(unravel(jnp.asarray(mean)), learns)[rows]
        matrix = before + blocks * (slopes.T @ slopes / 0.3)
        assert_seen(came, mean, matrix, learns)
        outputs = net(unravel(jnp.asarray(mean)), X)[2 * t : 2 * t + 2]
        loss = float(jnp.sum(jax.vmap(LIKELIHOOD.nll)(outputs, Y[2 * t : 2 * t + 2])))
        expected = dense.laplace_evidence(loss, (mean - ahead)[learns], before, matrix)
        assert abs(evidence[t] - expected) < 1e-9 * abs(expected)
        means.append(mean)
        matrices.append(matrix)
    site = matrices[1] - dense.predict(matrices[0], numbers(NOISE)[learns], DECAY)
    noise, ones = numbers(NOISE)[learns], np.eye(learns.sum())
    message = DECAY**2 * np.linalg.solve(ones + site * noise, site)
    covariance = np.linalg.inv(matrices[0])
    gain = DECAY * covariance @ np.linalg.inv(DECAY**2 * covariance + np.diag(noise))
    mean = means[0].copy()
    mean[learns] += gain @ (means[1] - DECAY * means[0])[learns]
    assert_seen(smoothed, mean, matrices[0] + message, learns)
    rows = np.asarray(jax.vmap(flat)(draws))
    np.testing.assert_array_equal(rows[:, ~learns], np.tile(rows[:1, ~learns], (len(rows), 1)))
    white = (rows[:, learns] - means[1][learns]) @ np.linalg.cholesky(matrices[1])
    assert np.abs(white.T @ white / len(rows) - ones).max() < 6 * np.sqrt(2 / len(rows))
    jax.tree.map(np.testing.assert_array_equal, nothing, belief)


def told_before(policy, blocks):
    """What kernels were told for each call."""
    belief = lf.init(PARAMS, rank=2, structure=blocks)
    built = lf.extended_filter(net, LIKELIHOOD, rank=2, structure=blocks, iterations=0, process_noise=0.1, **policy)
    first, _ = lf.update(belief, net, LIKELIHOOD, X, Y, iterations=0, rank=2, **policy)
    second, info = lf.laplace_update(first, first.mean, net, LIKELIHOOD, X, Y, **policy)
    _, steps = lf.filter_stream(built, belief, X, Y, history="all")
    return second, info.site, lf.smooth(steps.beliefs, steps.info.site, 0.1, **policy)


def told_once(policy, blocks):
    """The same, by the structure."""
    structure = lf.LowRank(2, blocks=blocks, **policy)
    belief = lf.init(PARAMS, structure=structure)
    built = lf.extended_filter(net, LIKELIHOOD, structure=structure, iterations=0, process_noise=0.1)
    first, _ = lf.update(belief, net, LIKELIHOOD, X, Y, iterations=0)
    second, info = lf.laplace_update(first, first.mean, net, LIKELIHOOD, X, Y)
    _, steps = lf.filter_stream(built, belief, X, Y, history="all")
    return second, info.site, lf.smooth(steps.beliefs, steps.info.site, 0.1)


@pytest.mark.parametrize("blocks", ["network", pytest.param("unit", marks=pytest.mark.slow)])
def test_a_policy_is_what_kernels_were_told(blocks):
    """Bit for bit, in another structure: the belief of who still tells the kernels has none of its own."""
    policy = {"residual": "drop", "metric": "euclidean"}
    with pytest.warns(DeprecationWarning, match="residual=, metric=: deprecated, .*LowRank"):
        before = jax.jit(lambda: told_before(policy, blocks))()
    once = jax.jit(lambda: told_once(policy, blocks))()
    assert jax.tree.structure(before) != jax.tree.structure(once)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(before), jax.tree.leaves(once))


def test_a_rank_for_one_call():
    """From a diagonal prior, as told before; the structure has room for it now."""
    belief = lf.init(PARAMS, 2.0, rank=0)
    with pytest.warns(DeprecationWarning, match="rank=: deprecated"):
        before, _ = lf.laplace_update(belief, PARAMS, net, LIKELIHOOD, X, Y, rank=3)
    now, _ = lf.laplace_update(lf.init(PARAMS, 2.0, rank=3), PARAMS, net, LIKELIHOOD, X, Y)
    assert jax.tree.structure(before) == jax.tree.structure(now)
    products = [lf.matvec(belief.precision, PARAMS) for belief in (before, now)]
    assert all(dense.relative_error(*pair) < 1e-12 for pair in zip(*map(jax.tree.leaves, products), strict=True))
    with pytest.warns(DeprecationWarning, match="rank=: deprecated"):
        after, _ = lf.extended_filter(net, LIKELIHOOD, rank=3).update(belief, X, Y)
    assert after.precision.rank == 3


def test_one_structure_of_the_defaults_is_the_short_form():
    """And one that stands in several places is one part."""
    for given in (lf.LowRank(2), {"body": lf.LowRank(2), "head": lf.LowRank(2)}):
        jax.tree.map(np.testing.assert_array_equal, lf.init(PARAMS, structure=given), lf.init(PARAMS, rank=2))
    blocks = lf.init(PARAMS, rank=1, structure="unit")
    assert jax.tree.structure(blocks) == jax.tree.structure(lf.init(PARAMS, structure=lf.LowRank(1, blocks="unit")))


OLD = {
    "kronecker_init": (lambda: lf.kronecker_init(PARAMS, shared="reduce"), lf.KroneckerFactored(shared="reduce")),
    "blocks=": (lambda: lf.init(PARAMS, rank=1, blocks="unit"), lf.LowRank(1, blocks="unit")),
}


@pytest.mark.parametrize("name", OLD)
def test_the_spellings_before_warn_and_are_the_same(name):
    call, now = OLD[name]
    with pytest.warns(DeprecationWarning, match=f"{name}.*deprecated, gone in the next release; write "):
        came = call()
    expected = lf.init(PARAMS, structure=now)
    assert jax.tree.structure(came) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, came, expected)


def test_a_precision_of_the_networks_own_is_that_of_what_learns():
    """As for a network that closes over the rest."""
    frozen = {"body": lf.Frozen(), "head": lf.Diagonal()}
    built = lf.extended_filter(net, LIKELIHOOD, structure=frozen)
    (part,) = built.init(PARAMS, X).precision.parts
    alone = lf.init(PARAMS["head"], lf.scaled(lambda head, x: net({**PARAMS, "head": head}, x), X), rank=0)
    jax.tree.map(np.testing.assert_allclose, jax.tree.leaves(part.diag), jax.tree.leaves(alone.precision.diag))


def test_a_dense_part_in_float32_keeps_small_eigenvalues():
    """Of a curvature that says little in many directions: variances as float64 has them."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(400, 30)) * np.logspace(0, -3, 30), rng.normal(size=30) / 30
    p = 1 / (1 + np.exp(-x @ kernel))
    expected = np.diag(np.linalg.inv(np.eye(30) + (x * (p * (1 - p))[:, None]).T @ x))
    params, data = jnp.asarray(kernel, jnp.float32), (jnp.asarray(x, jnp.float32), jnp.asarray(p > 0.5, jnp.float32))
    belief = lf.init(params, jnp.float32(1), structure=lf.Dense())
    belief, _ = lf.laplace_update(belief, params, lambda w, x: x @ w[:, None], lf.Bernoulli(), *data)
    np.testing.assert_allclose(lf.inverse_diagonal(belief.precision), expected, rtol=1e-4)
