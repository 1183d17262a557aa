"""The algebra of every structure against dense float64: random members, degenerate ones among them, in both dtypes.

Everything is computed by one program for each structure and dtype; a case is one call of it. 200 cases in the fast
suite, 10,000 in the slow one.
"""

import contextlib
import functools
from typing import NamedTuple
from unittest import mock

import dense
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from jax.flatten_util import ravel_pytree

import lowrank_filter as lf
from lowrank_filter.algebra.diag_low_rank import with_policy
from lowrank_filter.algebra.example_gradients import Stack

SHAPES = {"a": {"bias": (3,), "kernel": (2, 3)}, "gain": (2,)}
D, N = 11, 2
ZERO = jax.tree.map(np.zeros, SHAPES, is_leaf=lambda s: isinstance(s, tuple))
# Structure and rank: no factor, a usual one, one with more columns than parameters.
KINDS = [("network", 0), ("network", 3), ("network", 13), ("layer", 3), ("unit", 2), ("kronecker", 0)]
EVERY = [(kind, dtype) for kind in KINDS for dtype in ("float64", "float32")]
SOME = [(("network", 3), "float64"), (("unit", 2), "float32"), (("kronecker", 0), "float64")]
SPECTRA = ("plain", "zero", "repeated", "opposite", "one direction", "orthonormal", "decades")


def unravel(row):
    """A numpy vector as a pytree of the parameters."""
    leaves, start = [], 0
    for leaf in jax.tree.leaves(ZERO):
        leaves.append(row[start : start + leaf.size].reshape(leaf.shape))
        start += leaf.size
    return jax.tree.unflatten(jax.tree.structure(ZERO), leaves)


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


@functools.cache
def start(kind):
    """Any belief of the structure, for its layout."""
    structure, rank = kind
    params = jax.tree.map(jnp.asarray, ZERO)
    if structure == "kronecker":
        return lf.init(params, structure="kronecker")
    return lf.init(params, rank=rank, structure=structure)


def columns_of(rng, shape, spectrum, scale):
    """A stack [k, m] of a given kind of spectrum."""
    factor = rng.normal(size=shape)
    count, size = shape
    if count == 0:
        return factor
    if spectrum == "zero":
        factor[rng.uniform(size=count) < 0.6] = 0
    if spectrum == "repeated":
        factor[:] = factor[rng.integers(0, count, count)]
    if spectrum == "opposite":
        factor[1::2] = -factor[: count // 2]
    if spectrum == "one direction":
        factor = rng.normal(size=(count, 1)) * factor[:1]
    if spectrum == "orthonormal":  # all singular values equal
        factor[: min(shape)] = np.linalg.qr(rng.normal(size=(size, size)))[0][: min(shape)]
    if spectrum == "decades":
        factor *= 10.0 ** rng.uniform(-3, 2, (count, 1))
    return scale * factor


def diagonal_of(rng, shape, spectrum, scale):
    if spectrum in ("orthonormal", "one direction"):  # all eigenvalues equal
        return np.full(shape, scale)
    spread = 1.5 if spectrum == "decades" else 0.3
    return scale * 10.0 ** rng.uniform(-spread, spread, shape)


def rotation(rng, size, spectrum):
    return np.eye(size) if spectrum == "zero" else np.linalg.qr(rng.normal(size=(size, size)))[0]


def member(kind, rng, spectrum, scales):
    """A random precision, and the same as a dense matrix built here."""
    first, second = scales
    structure, rank = kind
    like = start(kind).precision
    if structure == "network":
        diag, factor = diagonal_of(rng, D, spectrum, first), columns_of(rng, (rank, D), spectrum, second)
        stack = [unravel(row) for row in factor]
        stacked = jax.tree.map(lambda *rows: np.stack(rows), *stack) if rank else jax.tree.map(
            lambda leaf: np.zeros((0, *leaf.shape)), ZERO
        )  # fmt: skip
        return lf.DiagLowRank(unravel(diag), stacked), dense.matrix(diag, factor)
    matrix, parts = np.zeros((D, D)), []
    for group, part in zip(like.layout.groups, like.parts, strict=True):
        positions = like.layout.positions(group)
        if structure == "kronecker" and group.layer:
            units, inputs = positions.shape
            scale = diagonal_of(rng, positions.shape, spectrum, first)
            u, v = rotation(rng, units, spectrum), rotation(rng, inputs, spectrum)
            whole = np.einsum("uU,iI,UI,vU,jI->uivj", u, v, scale, u, v).reshape(units * inputs, -1)
            matrix[np.ix_(positions.ravel(), positions.ravel())] = whole
            parts.append(part._replace(units=u, inputs=v, scale=scale))
        elif structure == "kronecker":
            scale = diagonal_of(rng, positions.shape, spectrum, first)
            matrix[positions.ravel(), positions.ravel()] = scale.ravel()
            parts.append(part._replace(scale=scale))
        else:
            diag = diagonal_of(rng, positions.shape, spectrum, first)
            size = positions.shape[1]
            factor = np.stack([columns_of(rng, (rank, size), spectrum, second) for _ in positions])
            for rows, d, w in zip(positions, diag, factor, strict=True):
                matrix[np.ix_(rows, rows)] = dense.matrix(d, w)
            parts.append(lf.DiagLowRank(diag, factor))
    return type(like)(**{**vars(like), "parts": tuple(parts)}), matrix


def same_block(kind):
    """Which parameters may be coupled [D, D]."""
    structure, _ = kind
    if structure == "network":
        return np.ones((D, D), bool)
    together = np.zeros((D, D), bool)
    for group in start(kind).precision.layout.groups:
        positions = start(kind).precision.layout.positions(group)
        for rows in [positions.ravel()] if structure == "kronecker" else positions:
            together[np.ix_(rows, rows)] = True
    return together


def everything(kind, precision, other, vector, noise, decay, columns, target):
    """All operations of a precision; matrices as their products with the identity."""
    structure, rank = kind
    like = jax.tree.map(jnp.zeros_like, vector)

    def matrix(value):
        rows = jax.vmap(lambda row: ravel_pytree(value.matvec(ravel_pytree(like)[1](row)))[0])
        return rows(jnp.eye(D, dtype=vector["gain"].dtype))

    q, a = precision.in_structure("noise", noise, like), precision.in_structure("decay", decay, like)
    full = rank + N if structure != "kronecker" else 0
    posterior, site, correction, misfit = with_policy(precision, rank=full).condition(Stack(columns), target)
    summed, _ = with_policy(precision, rank=2 * rank).add(other)
    white = precision.whiten(vector)
    truncated = precision.truncate(max(rank - 1, 0))
    dropped = with_policy(precision, residual="drop", metric="euclidean").truncate(max(rank - 1, 0))
    fused = with_policy(precision, rank=full).condition(Stack(columns), target, noise=q, transition=a)[0]
    return {
        "matvec": precision.matvec(vector),
        "quadratic": precision.quadratic(vector),
        "solve": precision.solve(vector),
        "whitened": sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(white)),
        "logdet": precision.logdet(),
        "variances": precision.inverse_diagonal(),
        "predicted": matrix(precision.propagate(q, a)),
        "message": matrix(precision.retrodict(q, a)),
        "gain": precision.smoothing_gain(vector, q, a),
        "truncated": matrix(truncated),
        "dropped": matrix(dropped),
        "sum": matrix(summed),
        "posterior": matrix(posterior),
        "fused": matrix(fused),
        "site": matrix(site),
        "step": correction.step,
        "explained": correction.explained,
        "unexplained": correction.unexplained,
        "correction": correction.logdet,
        "share": misfit.share,
    }


@functools.cache
def compiled(kind, dtype, few):
    """One program for each; ``few``: whether these few parameters are solved for densely, as they are, or as many."""
    del dtype

    def traced(*args):
        with contextlib.nullcontext() if few else mock.patch.object(lf.DiagLowRank, "_few", False):
            return everything(kind, *args)

    return jax.jit(traced)


class Case(NamedTuple):
    kind: tuple[str, int]
    dtype: str
    spectrum: str
    scales: tuple[float, float]
    noise: float
    decay: float
    data: float
    seed: int


def cases(configurations):
    scales = st.sampled_from([1e-3, 1e-1, 1.0, 1e1, 1e3])
    return st.builds(
        lambda configuration, *rest: Case(*configuration, *rest),
        st.sampled_from(configurations),
        st.sampled_from(SPECTRA),
        st.tuples(scales, scales),
        st.sampled_from([0.0, 1e-3, 1.0, 1e2]),
        st.sampled_from([0.5, 1.0, 1.1]),
        st.sampled_from([1e-2, 1.0, 1e2]),
        st.integers(0, 2**32 - 1),
    )


def build(case):
    """The arguments of :func:`everything`, and two dense matrices."""
    rng = np.random.default_rng(case.seed)
    noise, decay = {"a": case.noise, "gain": rng.uniform(0, 1, 2)}, {"a": case.decay, "gain": rng.uniform(0.5, 1.1, 2)}
    precision, matrix = member(case.kind, rng, case.spectrum, case.scales)
    other, added = member(case.kind, rng, case.spectrum, case.scales[::-1])
    columns = columns_of(rng, (N, D), case.spectrum, case.data)
    return (precision, other, unravel(rng.normal(size=D)), noise, decay, columns, rng.normal(size=N)), matrix, added


def broadcast(prefix):
    return flat({"a": jax.tree.map(lambda leaf: leaf + prefix["a"], ZERO["a"]), "gain": prefix["gain"]})


def crowded(kind):
    """Whether some block has no more parameters than columns."""
    structure, rank = kind
    return rank >= D if structure == "network" else structure != "kronecker" and rank >= 2


def woodbury(kind, precision, matrix):
    """What Woodbury's subtraction costs where a block has no more parameters than columns: nearly nothing is left.

    With s the trace of WᵀD⁻¹W, 1/(1 + s) of the terms is, of a system whose condition is 1 + s.
    """
    if not crowded(kind):
        return 1.0
    network = kind[0] == "network"
    parts = [precision] if network else precision.parts
    diag = parts[0].diag if network else precision.layout.join([jnp.asarray(p.diag) for p in parts])
    return (np.diag(matrix) / flat(diag)).max() ** 2


def check(case, few):
    kind, dtype = case.kind, case.dtype
    (*rest, columns, target), matrix, added = build(case)
    rows = jax.tree.map(lambda *leaves: np.stack(leaves), *[unravel(row) for row in columns])
    with jax.enable_x64(dtype == "float64"):
        narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (*rest, rows, target))
        came = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), compiled(kind, dtype, few)(*narrow))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(came))
    assert (flat(came["variances"]) > 0).all() and came["whitened"] >= 0
    assert came["share"] >= 0 and (came["share"] <= 1 or kind[0] == "kronecker")
    assert came["unexplained"] >= 0

    eps = np.finfo(dtype).eps
    vector, q, a = flat(rest[2]), broadcast(rest[3]), broadcast(rest[4])
    condition = max(np.linalg.cond(matrix), woodbury(kind, rest[0], matrix))
    # As well determined as rounding of the numbers lets it be, relative to the largest.
    direct, solved = 300 * eps, 300 * eps * condition
    size = np.abs(matrix).max() * np.abs(vector).max()

    def near(value, expected, tolerance, scale=None):
        expected = np.asarray(expected)
        scale = scale or np.abs(expected).max() or 1.0
        assert np.abs(np.asarray(value) - expected).max() <= tolerance * scale

    near(flat(came["matvec"]), matrix @ vector, direct, size)
    near(came["quadratic"], vector @ matrix @ vector, direct, np.abs(vector) @ np.abs(matrix) @ np.abs(vector))
    covariance = np.linalg.inv(matrix)
    if solved < 0.1:
        near(flat(came["solve"]), covariance @ vector, solved)
        near(flat(came["variances"]), np.diag(covariance), solved)
        near(came["whitened"], vector @ covariance @ vector, solved)
        near(came["logdet"], dense.logdet(matrix), solved, 1 + np.abs(np.log(np.linalg.eigvalsh(matrix))).sum())
    decay = np.diag(a)
    widened = decay @ covariance @ decay + np.diag(q)
    predicted = np.linalg.inv(widened)
    twice = solved + 300 * eps * np.linalg.cond(widened)
    if twice < 0.1:
        near(came["predicted"], predicted, twice)
        near(came["message"], decay @ np.linalg.inv(covariance + np.diag(q)) @ decay, twice)
        near(flat(came["gain"]), covariance @ decay @ predicted @ vector, twice * np.abs(vector).max(),
             np.abs(covariance @ decay @ predicted).max())  # fmt: skip
    largest = np.abs(matrix).max()
    # Of exactly dependent columns, truncation loses digits in proportion to the floor of their pivots.
    cut = 300 * direct if crowded(kind) else 10 * direct
    near(np.diag(came["truncated"]), np.diag(matrix), cut, largest)
    assert np.linalg.eigvalsh(matrix - came["dropped"]).min() >= -cut * largest
    # Symmetric and positive definite, all of them.
    for name in ("predicted", "truncated", "posterior", "fused", "sum"):
        assert np.abs(came[name] - came[name].T).max() <= 300 * eps * np.abs(came[name]).max()
        assert np.linalg.eigvalsh(came[name]).min() >= -300 * eps * np.abs(came[name]).max()
    data = columns.T @ columns
    whole = matrix + data
    if kind[0] == "kronecker":
        near(np.trace(came["sum"]), np.trace(matrix + added), direct)
        near(np.trace(came["posterior"]), np.trace(whole), direct)
        near(np.trace(came["site"]), np.trace(data), direct)
    else:
        near(came["sum"], matrix + added, direct, np.abs(matrix + added).max())
        near(came["posterior"], matrix + data * same_block(kind), direct, np.abs(whole).max())
        near(came["site"], data * same_block(kind), direct)
        if twice < 0.1:
            expected = predicted + data * same_block(kind)
            near(came["fused"], expected, twice, np.abs(expected).max())
    exact = 300 * eps * (condition + np.linalg.cond(whole))
    if exact < 0.1:
        step = np.linalg.solve(whole, columns.T @ target)
        near(flat(came["step"]), step, exact, np.abs(np.linalg.inv(whole) @ columns.T).max() * np.abs(target).max())
        explained = target @ columns @ step
        near(came["explained"], explained, exact, target @ target)
        near(came["unexplained"], target @ target - explained, exact, target @ target)
        growth = dense.logdet(whole) - dense.logdet(matrix)
        near(came["correction"], growth, exact, 1 + np.abs(np.log(np.linalg.eigvalsh(whole))).sum())


@settings(max_examples=60)
@given(cases(SOME), st.booleans())
def test_the_algebra_is_the_dense_one(case, few):
    check(case, few or case.kind[0] == "kronecker")  # which has no low-rank part: one program


@pytest.mark.slow
@settings(max_examples=10_000)
@given(cases(EVERY), st.booleans())
@example(Case(("layer", 3), "float64", "opposite", (0.1, 1e3), 0.0, 0.5, 1e-2, 128), True)
def test_the_algebra_is_the_dense_one_in_ten_thousand_cases(case, few):
    check(case, few)
