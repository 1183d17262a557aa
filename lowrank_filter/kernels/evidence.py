"""The evidence of a discrete likelihood, and class probabilities: log E p(y | f) over the Gaussian of the outputs."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import helmert
from scipy.special import ndtri
from scipy.stats import qmc

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.kernels.expansion import Local

# Half of the points of a batch; fewer where they have many coordinates.
_MOST, _FEWEST, _NUMBERS = 2048, 64, 2**12
# Shares of them: of the prior, which bounds all weights by 8; of proposals around the mode, by how much of its
# curvature they keep. All of it suits a posterior that is nearly Gaussian, less one that a softmax cuts off.
_OF_PRIOR, _AROUND = 1 / 8, {1.0: 1 / 4, 0.2: 5 / 8}
# Of a trapezoidal rule on a line, which converges exponentially: to a thousandth of a nat.
_LINE = 96
# Coordinates that a Sobol sequence has.
_SEQUENCE = 21201
# The same of all classes at once, and of a line between two: so long that none is too improbable, and so dense that a
# softmax of outputs of a hundred standard deviations turns between them.
_OF_CLASSES, _MOST_OF_CLASSES, _WIDE_LINE = 2**14, 1024, np.linspace(-32, 32, 2048)
# Of the search for where a class is likely.
_ROUNDS, _LENGTHS = 2, [length / 8 for length in range(1, 9)]
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

    In coordinates e with f = f̂ + R e, R Rᵀ = Σ, the points are drawn from the prior N(0, I), from Laplace's
    approximation of the posterior, N(ê, (I + RᵀH R)⁻¹) with ê = Rᵀa, and from a wider one, N(ê, (I + c RᵀH R)⁻¹); each
    is weighed against the mixture of the three (the balance heuristic, Veach & Guibas 1995). They are a scrambled Sobol
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
    gram, centre = _matmul(whitened.T, whitened), _matmul(root.T, a)
    of_prior, *rules = _rules(size)
    lowers = [small_matrices.cholesky_plus_identity(curvature * gram) for curvature in _AROUND]
    around = [
        centre + jax.scipy.linalg.solve_triangular(lower, jnp.asarray(normal.T, dtype), lower=True, trans="T").T
        for lower, (normal, _) in zip(lowers, rules, strict=True)
    ]
    points = jnp.concatenate([jnp.asarray(of_prior[0], dtype), *around])

    def loss(point: Array) -> Array:
        moved = _matmul(root, point).reshape(outputs.shape).astype(outputs.dtype)
        return jnp.sum(local(outputs + moved).loss).astype(dtype)

    # log of the mixture over the prior; the normalising constants of all differ in their determinants alone.
    tilted = _matmul(points, centre) - 0.5 * jnp.sum(centre**2)
    curved = 0.5 * jnp.sum(_matmul(points - centre, whitened.T) ** 2, axis=1)
    mixture = jnp.full(len(points), math.log(_OF_PRIOR), dtype)
    for (curvature, share), lower in zip(_AROUND.items(), lowers, strict=True):
        ratio = tilted - curvature * curved + 0.5 * small_matrices.logdet(lower)
        mixture = jnp.logaddexp(mixture, math.log(share) + ratio)
    shares = np.concatenate([shares for _, shares in (of_prior, *rules)])
    values = jnp.asarray(np.log(shares), dtype) - mixture - jax.vmap(loss)(points)
    total = jax.nn.logsumexp(values)
    return jnp.minimum(total, 0) if discrete else total


def log_probabilities(outputs: Float[Array, " C"], covariance: Float[Array, "C C"]) -> Float[Array, " C"]:
    """log E softmax(f), f ~ N(f̂, Σ), of all classes by the same points, so that their probabilities add up to one.

    Importance sampling as in :func:`log_expectation`. Half of the points are drawn from the prior of e, the other half
    from as many priors as there are classes, each moved to where its class is likely; all are weighed against the
    mixture of all of them, so that a class keeps its relative accuracy however improbable it is. What outputs have in
    common is left out, as softmax does not see it: f = f̂ + U R e with R Rᵀ = UᵀΣ U and an orthonormal basis U of the
    rest. Of two classes that is a line.
    """
    classes = len(outputs)
    basis = jnp.asarray(helmert(classes).T, covariance.dtype)
    root = _matmul(basis, small_matrices.raised_root(_matmul(basis.T, _matmul(covariance, basis))))
    if classes == 2:
        points, weights = jnp.asarray(_WIDE_LINE, root.dtype)[None], jnp.asarray(-0.5 * _WIDE_LINE**2, root.dtype)
    else:
        number = _number(classes, _OF_CLASSES, _MOST_OF_CLASSES)
        each = max(number // classes, 1)
        standard = _points(max(number, 2 ** int(np.ceil(np.log2(classes)))), classes - 1).T
        centres = jax.lax.stop_gradient(_likely(outputs, root)).T
        own = jnp.asarray(standard[:, : classes * each], root.dtype) + jnp.repeat(centres, each, axis=1)
        points = jnp.concatenate([jnp.asarray(standard[:, :number], root.dtype), own], axis=1)
        # log of the mixture over the prior, but for a constant.
        ratios = _matmul(centres.T, points) - 0.5 * jnp.sum(centres**2, axis=0)[:, None] + math.log(each / number)
        weights = -jnp.logaddexp(0, jax.nn.logsumexp(ratios, axis=0))
    found = jax.nn.log_softmax(outputs[:, None] + _matmul(root, points), axis=0)
    return jax.nn.log_softmax(jax.nn.logsumexp(found + weights, axis=1))


def examples_at_once(classes: int) -> int:
    """How many examples' points of all classes make some hundred megabytes."""
    return max(2**23 // (classes * max(classes, _MOST_OF_CLASSES)), 1)


def _likely(outputs: Float[Array, " C"], root: Float[Array, "C r"]) -> Float[Array, "C r"]:
    """For each class c an e where log softmax_c(f̂ + R e) − ½‖e‖² is large.

    It has the form that the maximum has, Rᵀ(1_c − p) times a length, p first the probabilities at f̂, then the mean of
    these and of those that were led to.
    """
    classes = np.eye(len(outputs), dtype=bool)

    def height(at: Array) -> Array:
        return jnp.sum(jnp.where(classes, jax.nn.log_softmax(outputs + at), 0), axis=-1)

    p = jnp.broadcast_to(jax.nn.softmax(outputs), classes.shape)
    best, centres = height(jnp.zeros_like(p)), jnp.zeros((len(outputs), root.shape[1]), root.dtype)
    for _ in range(_ROUNDS):
        direction = _matmul(jnp.where(classes, 1 - p, -p), root)
        across, square = _matmul(direction, root.T), jnp.sum(direction**2, axis=1)
        values = jnp.stack([height(length * across) - 0.5 * length**2 * square for length in _LENGTHS])
        length, value = jnp.asarray(_LENGTHS, root.dtype)[jnp.argmax(values, axis=0)][:, None], jnp.max(values, axis=0)
        centres = jnp.where((value > best)[:, None], length * direction, centres)
        best = jnp.maximum(value, best)
        p = (p + jax.nn.softmax(outputs + length * across)) / 2
    return centres


def within_reach(examples: int, outputs: int) -> bool:
    """Whether points can fill the space of the outputs: one example's, which few directions rule, or few in all."""
    return examples == 1 or examples * outputs <= _COORDINATES


def standard_points(size: int, coordinates: int) -> np.ndarray:
    """Points [n, coordinates] for N(0, I), each as likely, as many as for ``size`` coordinates."""
    return _points(_number(size), coordinates)


def standard_rule(size: int, line: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, size] for N(0, I), and the share of it that each stands for; on a line, ``line`` of them."""
    if size > 1:
        points = _points(_number(size), size)
        return points, np.full(len(points), 1 / len(points))
    points = np.linspace(-8, 8, line)
    shares = np.exp(-0.5 * points**2)
    return points[:, None], shares / np.sum(shares)


def _rules(size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points [n, size] for N(0, I), for the prior and each proposal around the mode, and the share of the mixture that
    each point stands for."""
    parts = [_OF_PRIOR, *_AROUND.values()]
    if size == 1:
        points, shares = standard_rule(1, _LINE)
        return [(points, part * shares) for part in parts]
    points = _points(2 * _number(size), size)
    ends = (np.cumsum(parts[:-1]) * len(points)).astype(int)
    return [(some, np.full(len(some), 1 / len(points))) for some in np.split(points, ends)]


def _number(size: int, numbers: int = _NUMBERS, most: int = _MOST) -> int:
    return int(np.clip(2 ** int(np.log2(max(numbers // size, 1))), _FEWEST, most))


@functools.cache
def _points(number: int, size: int) -> np.ndarray:
    """Standard normal points, spread evenly; where a sequence has not so many coordinates, drawn."""
    if size > _SEQUENCE:
        return np.random.default_rng(0).normal(size=(number, size))
    uniform = qmc.Sobol(size, scramble=True, rng=np.random.default_rng(0)).random(number)
    return ndtri(np.clip(uniform, 1e-9, 1 - 1e-9))


def _matmul(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=tree.HIGHEST)
