"""The evidence of a discrete likelihood: log E p(y | f) over the Gaussian of the outputs."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import ndtri
from scipy.stats import qmc

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.kernels.expansion import Local

# Points of each of the two proposals; fewer where they have many coordinates.
_MOST, _FEWEST, _NUMBERS = 2048, 64, 2**12
# Of a trapezoidal rule on a line, which converges exponentially: to a thousandth of a nat.
_LINE = 96
# Coordinates that a Sobol sequence has.
_SEQUENCE = 21201
# Coordinates of a batch beyond which so few points leave an error of nats.
_COORDINATES = 256


def log_expectation(
    local: Callable[[Float[Array, "B C"]], Local],
    outputs: Float[Array, "B C"],
    covariance: Float[Array, "n n"],
    a: Float[Array, " n"],
    found: Local,
    *,
    discrete: bool = True,
) -> Float[Array, ""]:
    """log E exp(−ℓ(f)), f ~ N(f̂, Σ), by importance sampling at fixed points; never above 0 where ℓ ≥ 0.

    In coordinates e with f = f̂ + R e, R Rᵀ = Σ, half of the points are drawn from the prior N(0, I) and half from
    Laplace's approximation of the posterior, N(Rᵀa, (I + RᵀH R)⁻¹); each is weighed against the even mixture of both
    (the balance heuristic, Veach & Guibas 1995), so that no weight is larger than 2. The points are a scrambled Sobol
    sequence, for one coordinate a trapezoidal rule: the same in every call, so that the result is a smooth function of
    its arguments.

    Args:
        local: the likelihood at outputs.
        outputs: f̂.
        covariance: Σ.
        a: of :func:`output_map`.
        found: the likelihood at f̂ + Σa.
        discrete: whether ℓ ≥ 0.
    """
    dtype, size = covariance.dtype, len(covariance)
    root = small_matrices.raised_root(covariance)
    blocks = root.reshape(*outputs.shape, size)
    whitened = jnp.einsum("bcr,bcn->brn", found.root.astype(dtype), blocks, precision=tree.HIGHEST).reshape(-1, size)
    lower = small_matrices.cholesky_plus_identity(_matmul(whitened.T, whitened))
    centre = _matmul(root.T, a)
    standard, shares = standard_rule(size, _LINE)
    log_shares = np.log(shares / 2)
    normal = jnp.asarray(standard, dtype)
    posterior = centre + jax.scipy.linalg.solve_triangular(lower, normal.T, lower=True, trans="T").T
    points = jnp.concatenate([normal, posterior])

    def loss(point: Array) -> Array:
        moved = _matmul(root, point).reshape(outputs.shape).astype(outputs.dtype)
        return jnp.sum(local(outputs + moved).loss).astype(dtype)

    # log of the mixture over the prior; the normalising constants of both are the same but for the determinant.
    shifted = jnp.sum(_matmul(points - centre, lower) ** 2, axis=1)
    ratio = 0.5 * (jnp.sum(points**2, axis=1) - shifted) + 0.5 * small_matrices.logdet(lower)
    weights = -jnp.logaddexp(0.0, ratio) + np.log(2)
    values = weights - jax.vmap(loss)(points) + jnp.asarray(np.tile(log_shares, 2), dtype)
    total = jax.nn.logsumexp(values)
    return jnp.minimum(total, 0) if discrete else total


def within_reach(examples: int, outputs: int) -> bool:
    """Whether points can fill the space of the outputs: one example's, which few directions rule, or few in all."""
    return examples == 1 or examples * outputs <= _COORDINATES


def standard_points(size: int, coordinates: int) -> np.ndarray:
    """Points [n, coordinates] for N(0, I), each as likely, as many as for ``size`` coordinates; where a sequence has
    not so many, drawn."""
    if coordinates <= _SEQUENCE:
        return _points(_number(size), coordinates)
    return np.random.default_rng(0).normal(size=(_number(size), coordinates))


def standard_rule(size: int, line: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, size] for N(0, I), and the share of it that each stands for; on a line, ``line`` of them."""
    if size > 1:
        points = _points(_number(size), size)
        return points, np.full(len(points), 1 / len(points))
    points = np.linspace(-8, 8, line)
    shares = np.exp(-0.5 * points**2)
    return points[:, None], shares / np.sum(shares)


def _number(size: int) -> int:
    return int(np.clip(2 ** int(np.log2(max(_NUMBERS // size, 1))), _FEWEST, _MOST))


@functools.cache
def _points(number: int, size: int) -> np.ndarray:
    """Standard normal points, spread evenly."""
    uniform = qmc.Sobol(size, scramble=True, rng=np.random.default_rng(0)).random(number)
    return ndtri(np.clip(uniform, 1e-9, 1 - 1e-9))


def _matmul(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=tree.HIGHEST)
