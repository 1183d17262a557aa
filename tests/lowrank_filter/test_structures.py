"""Every structure of the precision against dense float64, on a network with a parameter that no layer claims.

Blocks are compared with the dense computation on the diagonal blocks, Kronecker precisions with the dense computation
followed by the projection into their family.
"""

import functools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import lowrank_filter as lf
from lowrank_filter.algebra.diag_low_rank import with_policy
from lowrank_filter.algebra.example_gradients import Stack

pytestmark = pytest.mark.usefixtures("x64")

IN, HIDDEN, OUT, B, T = 3, 4, 3, 7, 3
SHAPES = {"a": {"bias": (HIDDEN,), "kernel": (IN, HIDDEN)}, "b": {"b": (OUT,), "w": (HIDDEN, OUT)}, "gain": (HIDDEN,)}
FULL = 40  # no block is larger: nothing is truncated
BLOCKS = ("network", "layer", "unit")
STRUCTURES = (*BLOCKS, "kronecker")
# A layer's block differs from a unit's in its sizes alone; the network as one block is test_laplace's.
NETWORK, LAYER, UNIT = (pytest.param(name, marks=pytest.mark.slow) for name in ("network", "layer", "unit"))
ALL = (NETWORK, LAYER, "unit", "kronecker")
OTHERS = (LAYER, "unit", "kronecker")
FEW = (LAYER, UNIT, "kronecker")
LIKELIHOOD = lf.Categorical()


def net(params, x):
    hidden = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"]) * params["gain"]
    return hidden @ params["b"]["w"] + params["b"]["b"]


def random(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: jnp.asarray(scale * rng.normal(size=s)), SHAPES, is_leaf=lambda s: isinstance(s, tuple)
    )


def data(seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(B, IN))), jnp.asarray(rng.integers(0, OUT, B))


D = sum(leaf.size for leaf in jax.tree.leaves(random(0)))
unravel = ravel_pytree(random(0))[1]


def flat(tree):
    return ravel_pytree(tree)[0]


@jax.jit
def densified(precision):
    return jax.vmap(lambda row: flat(precision.matvec(unravel(row))))(jnp.eye(D))


def prior(structure, precision=0.7):
    params = random(0)
    if structure == "kronecker":
        return lf.init(params, precision, structure="kronecker")
    return lf.init(params, precision, rank=FULL, structure=structure)


def own_blocks(structure):
    """Which parameters share a block [D, D]."""
    units = {
        "a": {"bias": jnp.arange(HIDDEN), "kernel": jnp.tile(jnp.arange(HIDDEN), (IN, 1))},
        "b": {"b": 10 + jnp.arange(OUT), "w": 10 + jnp.tile(jnp.arange(OUT), (HIDDEN, 1))},
        "gain": jnp.full(HIDDEN, 20),
    }
    label = flat(units) if structure == "unit" else flat(units) // 10
    return np.asarray(label[:, None] == label[None, :]) | (structure == "network")


def curvature(params, x, scale=1.0):
    jacobian = np.asarray(jax.jit(jax.jacobian(lambda row: net(unravel(row), x)))(flat(params))).reshape(-1, D)
    roots = np.asarray(jax.vmap(LIKELIHOOD.root)(net(params, x), jnp.zeros(len(x), int)))
    return scale * jacobian.T @ dense.block_diagonal(roots @ roots.transpose(0, 2, 1)) @ jacobian


@functools.partial(jax.jit, static_argnames=("scale",))
def absorb(belief, params, x, y, scale=1.0):
    return lf.laplace_update(belief, params, net, LIKELIHOOD, x, y, curvature_scale=scale, batch_size=3)


predict = jax.jit(lf.predict)


@functools.cache
def sequence(structure):
    """Beliefs and infos of three tasks with process noise: different for each parameter where that is allowed."""
    with jax.enable_x64(True):
        belief, noise = prior(structure), noises(structure)
        beliefs, infos, predicted = [], [], []
        for t in range(T):
            belief = predict(belief, noise, 0.9)
            predicted.append(belief)
            belief, info = absorb(belief, jax.tree.map(jnp.add, belief.mean, random(5 + t, 0.3)), *data(t))
            beliefs.append(belief)
            infos.append(info)
        return predicted, beliefs, infos


def noises(structure):
    if structure == "kronecker":
        return {"a": 0.2, "b": 0.1, "gain": jnp.linspace(0.1, 0.3, HIDDEN)}
    return jax.tree.map(lambda leaf: leaf**2, random(9, 0.4))


def full(prefix):
    return np.asarray(flat(jax.tree.map(lambda v, sub: jax.tree.map(lambda p: v + 0 * p, sub), prefix, random(0))))


LAYERS = {"a": (("kernel", "bias"), HIDDEN), "b": (("w", "b"), OUT)}


def project(matrix, added):
    """P + X in the Kronecker family: layer by layer in the basis of the partial traces; the share left out."""
    number = unravel(jnp.arange(D))
    total, left_out = np.zeros((D, D)), 0.0
    for name, ((kernel, bias), units) in LAYERS.items():
        rows = np.concatenate([np.asarray(number[name][kernel]), np.asarray(number[name][bias])[None]]).T.ravel()
        rows = rows.astype(int)
        both = (matrix + added)[np.ix_(rows, rows)]
        four = both.reshape(units, -1, units, len(rows) // units)
        _, u = np.linalg.eigh(np.einsum("aibi->ab", four))
        _, v = np.linalg.eigh(np.einsum("aiaj->ij", four))
        basis = np.kron(u, v)
        kept = basis @ np.diag(np.diag(basis.T @ both @ basis)) @ basis.T
        total[np.ix_(rows, rows)] = kept
        left_out += np.sum((both - kept) ** 2)
    rest = np.asarray(number["gain"]).astype(int)
    total[rest, rest] = np.diag(matrix + added)[rest]
    return total, np.sqrt(left_out) / np.linalg.norm(added)


def kfac(params, x):
    """G ⊗ A for each layer, by hand, and the exact diagonal of the rest."""
    hidden = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"])
    outputs = net(params, x)
    roots = jax.vmap(LIKELIHOOD.root)(outputs, jnp.zeros(len(x), int))
    at_hidden = jnp.einsum("bcr,hc,h,bh->bhr", roots, params["b"]["w"], params["gain"], 1 - hidden**2)
    ones = jnp.ones((len(x), 1))
    number, total = unravel(jnp.arange(D)), np.zeros((D, D))
    inputs = {"a": (x, at_hidden), "b": (hidden * params["gain"], roots)}
    for name, ((kernel, bias), _) in LAYERS.items():
        a, g = inputs[name]
        a = np.concatenate([a, ones], axis=1)
        rows = np.concatenate([np.asarray(number[name][kernel]), np.asarray(number[name][bias])[None]]).T.ravel()
        product = np.kron(np.einsum("bur,bvr->uv", g, g), a.T @ a / len(x))
        total[np.ix_(rows.astype(int), rows.astype(int))] = product
    rest = np.asarray(number["gain"]).astype(int)
    total[rest, rest] = np.diag(curvature(params, x))[rest]
    return total


@pytest.mark.parametrize("structure", [NETWORK, *FEW])
def test_curvature_and_its_sum(structure):
    predicted, beliefs, infos = sequence(structure)
    for t in range(T):
        params, (x, _), before = beliefs[t].mean, data(t), np.asarray(densified(predicted[t].precision))
        if structure == "kronecker":
            site = kfac(params, x)
            expected, share = project(before, site)
            # The share is a root of a difference of squares, so half of the digits are left where it is small.
            assert abs(float(infos[t].truncated) - share) < 1e-6
        else:
            site = curvature(params, x) * own_blocks(structure)
            expected = before + site
            assert infos[t].truncated < 1e-12
        assert dense.relative_error(densified(infos[t].site), site) < 1e-9
        assert dense.relative_error(densified(beliefs[t].precision), expected) < 1e-9
        loss = float(jnp.sum(jax.vmap(LIKELIHOOD.nll)(net(params, x), data(t)[1])))
        shift = np.asarray(flat(params) - flat(predicted[t].mean))
        evidence = dense.laplace_evidence(loss, shift, before, expected)
        assert abs(infos[t].log_evidence - evidence) < 1e-9 * abs(evidence)


@pytest.mark.parametrize("structure", ALL)
def test_prediction(structure):
    predicted, beliefs, _ = sequence(structure)
    for before, after in zip(beliefs, predicted[1:], strict=False):
        expected = dense.predict(np.asarray(densified(before.precision)), full(noises(structure)), 0.9)
        assert dense.relative_error(densified(after.precision), expected) < 1e-9
        assert dense.relative_error(flat(after.mean), 0.9 * flat(before.mean)) < 1e-12


@jax.jit
def operations(precision, vector, columns, target):
    _, _, correction, _ = precision.condition(Stack(columns), target)
    return {
        "quadratic": precision.quadratic(vector),
        "solve": flat(lf.solve(precision, vector)),
        "logdet": lf.logdet(precision),
        "inverse diagonal": flat(lf.inverse_diagonal(precision)),
        "whitening root": jax.vmap(lambda row: flat(precision.whiten(unravel(row))))(jnp.eye(D)),
        "correction": correction._replace(step=flat(correction.step)),
    }


@pytest.mark.parametrize("structure", OTHERS)
def test_algebra(structure):
    precision = sequence(structure)[1][-1].precision
    rng = np.random.default_rng(3)
    vector, target = random(11), jnp.asarray(rng.normal(size=2))
    columns = jax.tree.map(lambda *leaves: jnp.stack(leaves), random(12), random(13))
    came = operations(precision, vector, columns, target)
    matrix, v, a = (
        np.asarray(densified(precision)),
        np.asarray(flat(vector)),
        np.stack([flat(random(12)), flat(random(13))]),
    )
    inverse, changed = np.linalg.inv(matrix), matrix + a.T @ a
    step = np.linalg.solve(changed, a.T @ np.asarray(target))
    explained = (a.T @ np.asarray(target)) @ step
    came["whitening root"] = came["whitening root"] @ came["whitening root"].T
    came["correction"] = came["correction"][:4]
    expected = {
        "quadratic": v @ matrix @ v,
        "solve": np.linalg.solve(matrix, v),
        "logdet": dense.logdet(matrix),
        "inverse diagonal": np.diag(inverse),
        "whitening root": inverse,
        "correction": (step, explained, target @ target - explained, dense.logdet(changed) - dense.logdet(matrix)),
    }
    for name, exact in expected.items():
        for one, other in zip(jax.tree.leaves(came[name]), jax.tree.leaves(exact), strict=True):
            assert dense.relative_error(one, other) < 1e-9, name


@pytest.mark.parametrize("structure", [NETWORK, *FEW])
def test_gain_and_smoothing(structure):
    """Means and covariances of the smoother; a Kronecker message is projected into its family at every sum."""
    _, beliefs, infos = sequence(structure)
    noise, q = noises(structure), full(noises(structure))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *beliefs)
    sites = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(info.site for info in infos))
    smoothed = jax.jit(lf.smooth)(stacked, sites, noise, 0.9)
    decay, message, mean = 0.9 * np.eye(D), np.zeros((D, D)), np.asarray(flat(beliefs[-1].mean))
    for t in range(T - 2, -1, -1):
        precision = np.asarray(densified(beliefs[t].precision))
        site = np.asarray(densified(infos[t + 1].site))
        after = project(message, site)[0] if structure == "kronecker" else message + site
        # a (M⁻¹ + q)⁻¹ a without inverting M
        message = decay @ np.linalg.solve(np.eye(D) + after * q, after) @ decay
        covariance = np.linalg.inv(precision)
        gain = covariance @ decay @ np.linalg.inv(decay @ covariance @ decay + np.diag(q))
        here = np.asarray(flat(beliefs[t].mean))
        mean = here + gain @ (mean - 0.9 * here)
        expected = project(precision, message)[0] if structure == "kronecker" else precision + message
        step = jax.tree.map(lambda leaf, t=t: leaf[t], smoothed)
        assert dense.relative_error(flat(step.mean), mean) < 1e-9
        assert dense.relative_error(np.linalg.inv(densified(step.precision)), np.linalg.inv(expected)) < 1e-9


@pytest.mark.parametrize("structure", FEW)
def test_draws_and_predictive(structure):
    belief = sequence(structure)[1][-1]
    covariance = np.linalg.inv(densified(belief.precision))
    count = 20_000
    draws = np.asarray(jax.vmap(flat)(jax.jit(lf.sample, static_argnums=2)(jax.random.key(0), belief, count)))
    root = np.linalg.cholesky(np.linalg.inv(covariance))
    white = (draws - np.asarray(flat(belief.mean))) @ root
    # Entries of a sample covariance of white noise have standard error 1/√n (√2/√n on the diagonal): 6 of those.
    assert np.abs(white.T @ white / count - np.eye(D)).max() < 6 * np.sqrt(2 / count)

    x = data(0)[0]
    jacobian = np.asarray(jax.jit(jax.jacobian(lambda row: net(unravel(row), x)))(flat(belief.mean)))
    came = lf.predictive(belief, net, x)
    assert dense.relative_error(came.covariance, np.einsum("bcd,de,bfe->bcf", jacobian, covariance, jacobian)) < 1e-9


@pytest.mark.parametrize("structure", OTHERS)
def test_linearised_update(structure):
    predicted, _, _ = sequence(structure)
    belief, (x, y) = predicted[0], data(3)
    if structure == "kronecker":
        x, y = x[:1], y[:1]  # one example's columns are products of one input with several gradients
    after, info = jax.jit(lambda b: lf.update(b, net, LIKELIHOOD, x, y, iterations=0))(belief)
    before, matrix = np.asarray(densified(belief.precision)), curvature(belief.mean, x)
    slope = np.asarray(flat(jax.jit(jax.grad(lambda p: jnp.sum(jax.vmap(LIKELIHOOD.nll)(net(p, x), y))))(belief.mean)))
    mean = np.asarray(flat(belief.mean)) - np.linalg.solve(before + matrix, slope)
    assert dense.relative_error(flat(after.mean), mean) < 1e-9
    if structure == "kronecker":
        expected = project(before, kfac(belief.mean, x))[0]
    else:
        expected = before + matrix * own_blocks(structure)
    assert dense.relative_error(densified(after.precision), expected) < 1e-9
    assert np.isfinite(info.log_evidence)


@pytest.mark.parametrize("blocks", [LAYER, "unit"])
@pytest.mark.parametrize("rank", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_one_block_is_the_network(blocks, rank):
    """A network of one layer, and a layer of one unit, are one block: the same filter to rounding."""
    outputs = 3 if blocks == "layer" else 1
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(IN, outputs))), "bias": jnp.asarray(rng.normal(size=outputs))}
    x, y = jnp.asarray(rng.normal(size=(B, IN))), jnp.asarray(rng.normal(size=(B, outputs)))

    # Outputs of different precision: equal ones would make the leading direction a matter of taste.
    likelihood = lf.Gaussian(jnp.linspace(0.3, 0.9, outputs))

    def linear(params, x):
        return x @ params["kernel"] + params["bias"]

    @jax.jit
    def filtered(belief):
        belief, first = lf.update(lf.predict(belief, 0.1), linear, likelihood, x, y, iterations=0)
        belief = lf.predict(belief, 0.1)
        target = jax.tree.map(lambda m: m + 0.1, belief.mean)
        belief, second = lf.laplace_update(belief, target, linear, likelihood, x, y)
        action = belief.precision.matvec(params)
        return belief.mean, action, first.log_evidence, second.log_evidence, second.truncated

    came = filtered(lf.init(params, 2.0, rank=rank, structure=blocks))
    for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(filtered(lf.init(params, 2.0, rank=rank))), strict=True):
        assert dense.relative_error(a, b) < 1e-10


@pytest.mark.parametrize("metric", ["relative", pytest.param("euclidean", marks=pytest.mark.slow)])
@pytest.mark.parametrize("blocks", [LAYER, "unit"])
def test_each_block_keeps_its_leading_directions(blocks, metric):
    """By iteration: there are more examples than would be decomposed."""
    rng = np.random.default_rng(4)
    x, y, rank = jnp.asarray(rng.normal(size=(60, IN))), jnp.asarray(rng.integers(0, OUT, 60)), 2
    belief = lf.init(random(0), jax.tree.map(lambda leaf: leaf**2 + 0.5, random(1)), rank=rank, structure=blocks)
    _, info = jax.jit(lambda b: lf.laplace_update(b, b.mean, net, LIKELIHOOD, x, y, iterations=8))(
        with_policy(belief, metric=metric, residual="drop")
    )
    matrix, scale = curvature(belief.mean, x), np.sqrt(np.diag(densified(belief.precision)))
    scale = scale if metric == "relative" else np.ones(D)
    expected = np.zeros((D, D))
    for block in np.unique(own_blocks(blocks), axis=0):
        rows = np.flatnonzero(block)
        values, vectors = np.linalg.eigh((matrix / np.outer(scale, scale))[np.ix_(rows, rows)])
        kept = vectors[:, -rank:] * np.sqrt(values[-rank:]) * scale[rows, None]
        expected[np.ix_(rows, rows)] = kept @ kept.T
    assert dense.relative_error(densified(info.site), expected) < 1e-6


@pytest.mark.parametrize("structure", STRUCTURES)
def test_memory_is_what_the_formula_says(structure):
    numbers = sum(leaf.size for leaf in jax.tree.leaves(prior(structure).precision))
    layers = [(HIDDEN, IN + 1), (OUT, HIDDEN + 1)]
    kronecker = sum(units**2 + inputs**2 + units * inputs for units, inputs in layers) + HIDDEN
    assert numbers == (kronecker if structure == "kronecker" else (FULL + 1) * D)


@pytest.mark.parametrize("structure", FEW)
def test_nothing_seen_changes_nothing(structure):
    belief = sequence(structure)[1][0]
    x, y = data(0)
    masked, info = jax.jit(lambda b: lf.laplace_update(b, b.mean, net, LIKELIHOOD, x, y, mask=jnp.zeros(B, bool)))(
        belief
    )
    for a, b in zip(jax.tree.leaves(masked), jax.tree.leaves(belief), strict=True):
        np.testing.assert_array_equal(a, b)
    assert info.truncated == 0


@pytest.mark.parametrize("structure", FEW)
def test_single_precision(structure):
    """The covariance's action in float32 after three tasks, against the same computation in float64."""
    belief = predict(sequence(structure)[1][-1], noises(structure))
    vector = random(20)
    exact = flat(lf.solve(belief.precision, vector))
    with jax.enable_x64(False):
        narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), sequence(structure)[1][-1])
        noise = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), noises(structure))
        vector = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), vector)
        came = flat(lf.solve(predict(narrow, noise).precision, vector))
    assert came.dtype == jnp.float32
    assert dense.relative_error(came, exact) < 100 * np.finfo(np.float32).eps


@pytest.mark.parametrize("structure", FEW)
def test_a_stream_through_a_built_filter(structure):
    x, y = data(1)
    rank = None if structure == "kronecker" else 4
    options = {"rank": rank, "iterations": 0}
    built = lf.extended_filter(net, LIKELIHOOD, structure=structure, process_noise=0.01, **options)
    last, steps = jax.jit(lambda b: lf.filter_stream(built, b, x, y, history="all"))(built.init(random(0)))
    belief = built.init(random(0))
    one = jax.jit(lambda b, x, y: lf.update(lf.predict(b, 0.01), net, LIKELIHOOD, x, y, iterations=0))
    for t in range(B):
        belief, _ = one(belief, x[t : t + 1], y[t : t + 1])
    assert dense.relative_error(flat(last.mean), flat(belief.mean)) < 1e-9
    assert dense.relative_error(densified(last.precision), densified(belief.precision)) < 1e-9
    smoothed = lf.smooth(steps.beliefs, steps.info.site, 0.01)
    assert np.isfinite(flat(smoothed.mean)).all()
