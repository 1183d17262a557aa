"""Stationary Gaussian processes on a grid of times, as linear-Gaussian state-space models (Hartikainen & Särkkä 2010).

x_1 ~ N(0, P∞), x_{t+1} = A x_t + N(0, Q). The process is f_t, the first coordinate of x_t; of several outputs, the
first C coordinates. Noise covariances are kept as roots, made of squares, so that no rounding makes them indefinite.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, ArrayLike, Float

from latenttrack.gaussian_process import checks


class StateSpace(NamedTuple):
    """A process on T times.

    Attributes:
        transition: A [S, S]; of irregular steps [T−1, S, S].
        noise_root: L [S, N] with Q = L Lᵀ; of irregular steps [T−1, S, N].
        stationary_root: L∞ [S, S] with P∞ = L∞ L∞ᵀ.
    """

    transition: Float[Array, "*times S S"]
    noise_root: Float[Array, "*times S N"]
    stationary_root: Float[Array, "S S"]


ORDERS = (0.5, 1.5, 2.5)


def matern(order: float, lengthscale: ArrayLike, variance: ArrayLike = 1.0, step: ArrayLike = 1.0) -> StateSpace:
    """A Matérn process; S = order + ½.

    State (f, f′/λ, f″/λ²) with λ = √(2·order)/ℓ; the noise covariance is Gauss–Legendre quadrature of
    ∫₀^{λΔ} g(v) g(v)ᵀ dv, hence positive semi-definite in every precision, for length scales from far below
    to thousands of steps.

    Args:
        order: ν, one of .5 (Ornstein–Uhlenbeck), 1.5, 2.5; static.
        lengthscale: ℓ > 0, in units of time.
        variance: σ² > 0 of f.
        step: Δ, the time between neighbours: a number, or [T−1] numbers ≥ 0 such as ``jnp.diff(times)``.

    Raises:
        ValueError: another order, a value that is not positive, times that are not sorted.

    Examples:
        >>> float(gp.matern(0.5, lengthscale=2.0).transition[0, 0].round(1))  # exp(−1/2)
        0.6000000238418579
    """
    if isinstance(order, bool) or not isinstance(order, int | float) or order not in ORDERS:
        raise ValueError(f"order: expected one of .5, 1.5, 2.5, got {order!r}; choose one of these")
    lengthscale, variance = checks.number("lengthscale", lengthscale), checks.number("variance", variance)
    return _matern(float(order), lengthscale, variance, checks.steps(step))


@functools.partial(jax.jit, static_argnums=0)
def _matern(order: float, lengthscale: Array, variance: Array, step: Array) -> StateSpace:
    a = float(np.sqrt(2 * order)) * step / lengthscale
    scale = jnp.sqrt(variance)
    if order == 0.5:
        root = jnp.sqrt(_positive(-jnp.expm1(-2 * a)))
        return StateSpace(jnp.exp(-a)[..., None, None], scale * root[..., None, None], scale[None, None])
    v, weights = _nodes(a, rate=1.0)
    if order == 1.5:
        rows = [[1 + a, a], [-a, 1 - a]]
        impulse, constant, stationary = [v, 1 - v], 4, np.eye(2)
    else:
        square = a * a / 2
        rows = [
            [1 + a + square, a + 2 * square, square],
            [-square, 1 + a - 2 * square, a - square],
            [square - a, 2 * square - 3 * a, 1 - 2 * a + square],
        ]
        impulse, constant = [v * v / 2, v - v * v / 2, 1 - 2 * v + v * v / 2], 16 / 3
        stationary = np.linalg.cholesky([[1, 0, -1 / 3], [0, 1 / 3, 0], [-1 / 3, 0, 1]])
    transition = jnp.exp(-a)[..., None, None] * jnp.stack([jnp.stack(row, -1) for row in rows], -2)
    # g e^{−v} √w, not g √(w e^{−2v}): its gradient is finite where e^{−2v} underflows.
    noise = jnp.stack(impulse, -2) * (jnp.exp(-v) * jnp.sqrt(constant * weights))[..., None, :]
    return StateSpace(transition, scale * noise, scale * jnp.asarray(stationary, transition.dtype))


def rbf(lengthscale: ArrayLike, variance: ArrayLike = 1.0, step: ArrayLike = 1.0, *, order: int = 6) -> StateSpace:
    """The squared exponential σ² exp(−τ²/2ℓ²), its spectrum's inverse cut after ``order`` terms; S = order.

    1 / S(ω) ∝ Σ_{n ≤ order} (ω²ℓ²/2)ⁿ / n! (Hartikainen & Särkkä 2010), in the basis where P∞ = σ² I. The largest error
    of the covariance at any lag, relative to σ²: .134 (order 2), .052 (3), .022 (4), .0095 (5), .0043 (6), .0020 (7),
    .0009 (8).

    Args:
        lengthscale, variance, step: as in :func:`matern`.
        order: terms, 1 … 8; static.

    Raises:
        ValueError: an order out of range, a value that is not positive, times that are not sorted.

    Examples:
        >>> gp.rbf(lengthscale=3.0).transition.shape
        (6, 6)
    """
    checks.count("order", order, minimum=1)
    if order > 8:
        raise ValueError(f"order: expected at most 8, got {order}; 8 is within 1e-3 of the squared exponential")
    lengthscale, variance = checks.number("lengthscale", lengthscale), checks.number("variance", variance)
    return _rbf(int(order), lengthscale, variance, checks.steps(step))


@functools.partial(jax.jit, static_argnums=0)
def _rbf(order: int, lengthscale: Array, variance: Array, step: Array) -> StateSpace:
    poles, projectors, impulse = _modes(order)
    a, scale = step / lengthscale, jnp.sqrt(variance)

    def response(time: Array, residues: Any) -> Array:
        """Re Σ_k e^{p_k t} R_k."""
        decay = jnp.exp(jnp.asarray(poles.real, time.dtype) * time[..., None])
        phase = jnp.asarray(poles.imag, time.dtype) * time[..., None]
        real = jnp.tensordot(decay * jnp.cos(phase), jnp.asarray(residues.real, decay.dtype), 1)
        return real - jnp.tensordot(decay * jnp.sin(phase), jnp.asarray(residues.imag, decay.dtype), 1)

    v, weights = _nodes(a, rate=float(-poles.real.max()))
    noise = jnp.swapaxes(response(v, projectors @ impulse), -1, -2) * jnp.sqrt(weights)[..., None, :]
    return StateSpace(response(a, projectors), scale * noise, scale * jnp.eye(order, dtype=noise.dtype))


@functools.cache
def _modes(order: int) -> tuple[Any, Any, Any]:
    """Poles [S], spectral projectors [S, S, S] and the noise's direction [S], of ℓ = σ = 1, where P∞ = I."""
    coefficients = [1.0]
    for n in range(1, order + 1):
        coefficients += [0.0, coefficients[-1] * -0.5 / n]
    roots = np.roots(coefficients[::-1])
    companion = np.diag(np.ones(order - 1), 1)
    companion[-1] = -np.real(np.poly(roots[roots.real < 0]))[:0:-1]
    last = np.zeros(order)
    last[-1] = 1
    covariance = scipy.linalg.solve_continuous_lyapunov(companion, -np.outer(last, last))
    basis = np.linalg.cholesky(covariance / covariance[0, 0])
    poles, vectors = np.linalg.eig(np.linalg.solve(basis, companion @ basis))
    projectors = np.einsum("ik,kj->kij", vectors, np.linalg.inv(vectors))
    return poles, projectors, np.linalg.solve(basis, last) / np.sqrt(covariance[0, 0])


def _nodes(end: Array, rate: float) -> tuple[Array, Array]:
    """Gauss–Legendre nodes and weights on [0, end], which ends where e^{−2·rate·v} has nothing left to add."""
    double = end.dtype == jnp.float64
    points, weights = np.polynomial.legendre.leggauss(32 if double else 16)
    half = jnp.minimum(end, (24 if double else 12) / rate)[..., None] / 2
    return half * jnp.asarray(1 + points, end.dtype), half * jnp.asarray(weights, end.dtype)


def _positive(value: Array) -> Array:
    """Not 0, so that a root of it has a gradient."""
    return jnp.maximum(value, jnp.finfo(value.dtype).tiny)


def add(*models: StateSpace) -> StateSpace:
    """The sum of independent processes; S = Σ S_i.

    The first coordinate is the sum of theirs: the state is (f_1 + f_2, rest of the first, second) with f_1 written as
    f − f_2.

    Raises:
        TypeError, ValueError: no model, or one whose steps differ from the others'.

    Examples:
        >>> gp.add(gp.matern(0.5, 2.0), gp.matern(1.5, 5.0)).transition.shape
        (3, 3)
    """
    _several(models)
    return functools.reduce(_add, models)


def _add(first: StateSpace, second: StateSpace) -> StateSpace:
    first, second = _together(first, second)
    n = first.stationary_root.shape[0]
    size = n + second.stationary_root.shape[0]
    one = jnp.eye(size, dtype=jnp.result_type(first.transition, second.transition))
    forth, back = one.at[0, n].set(1), one.at[0, n].set(-1)
    join = functools.partial(_apply, _block_diagonal)
    return StateSpace(
        forth @ join(first.transition, second.transition) @ back,
        forth @ join(first.noise_root, second.noise_root),
        forth @ join(first.stationary_root, second.stationary_root),
    )


def _block_diagonal(a: Array, b: Array) -> Array:
    top = jnp.concatenate([a, jnp.zeros((*a.shape[:-1], b.shape[-1]), a.dtype)], -1)
    return jnp.concatenate([top, jnp.concatenate([jnp.zeros((*b.shape[:-1], a.shape[-1]), b.dtype), b], -1)], -2)


def multiply(*models: StateSpace) -> StateSpace:
    """The process whose covariance is the product of theirs; S = ∏ S_i.

    Kronecker products of A and of the stationary roots; Q = Q₁ ⊗ A₂P₂A₂ᵀ + P₁ ⊗ Q₂, a sum of squares.

    Raises:
        TypeError, ValueError: no model, or one whose steps differ from the others'.

    Examples:
        >>> gp.multiply(gp.matern(1.5, 2.0), gp.matern(1.5, 5.0)).transition.shape
        (4, 4)
    """
    _several(models)
    return functools.reduce(_multiply, models)


def _multiply(first: StateSpace, second: StateSpace) -> StateSpace:
    first, second = _together(first, second)
    kron = functools.partial(_apply, _kron)
    noise = [
        kron(first.noise_root, second.transition @ second.stationary_root),
        kron(jnp.broadcast_to(first.stationary_root, first.transition.shape), second.noise_root),
    ]
    return StateSpace(
        kron(first.transition, second.transition),
        jnp.concatenate(noise, -1),
        kron(first.stationary_root, second.stationary_root),
    )


def _kron(a: Array, b: Array) -> Array:
    product = a[..., :, None, :, None] * b[..., None, :, None, :]
    return product.reshape(*a.shape[:-2], a.shape[-2] * b.shape[-2], a.shape[-1] * b.shape[-1])


def _apply(function, a: Array, b: Array) -> Array:
    dtype = jnp.result_type(a, b)
    return function(a.astype(dtype), b.astype(dtype))


def _several(models: tuple) -> None:
    if not models:
        raise ValueError("models: expected at least one, got none; pass them one after another")
    for index, model in enumerate(models):
        checks.model(model, StateSpace, name=f"models[{index}]")
    lengths = {model.transition.shape[0] for model in models if model.transition.ndim == 3}
    if len(lengths) > 1:
        raise ValueError(f"models: expected the same steps in each, got {sorted(lengths)} of them; use the same times")


def _together(first: StateSpace, second: StateSpace) -> tuple[StateSpace, StateSpace]:
    """Both of regular, or both of irregular steps."""
    times = first.transition.shape[:-2] or second.transition.shape[:-2]

    def spread(model: StateSpace) -> StateSpace:
        transition, noise = (
            jnp.broadcast_to(part, times + part.shape[-2:]) for part in (model.transition, model.noise_root)
        )
        return StateSpace(transition, noise, model.stationary_root)

    return spread(first), spread(second)


def coupled(matrix: Float[ArrayLike, "S S"]) -> StateSpace:
    """S outputs whose coupling may flow one way: stationary and stable for every matrix, with P∞ = I.

    A = M (I + MᵀM)^{−½}, Q = (I + MMᵀ)^{−1}. A symmetric M gives a reversible process; no independent channels give
    an irreversible one.

    Raises:
        TypeError, ValueError: M is not a square matrix of finite numbers.

    Examples:
        >>> model = gp.coupled(jnp.array([[1.0, 0.0], [0.0, 0.0]]))
        >>> print(model.transition.round(3))
        [[0.707 0.   ]
         [0.    0.   ]]
    """
    matrix = checks.square("matrix", matrix)
    return _coupled(checks.values("matrix", matrix, None, matrix.shape[1]))


@jax.jit
def _coupled(matrix: Array) -> StateSpace:
    one = jnp.eye(len(matrix), dtype=matrix.dtype)
    return StateSpace(matrix @ _inverse_root(one + matrix.T @ matrix), _inverse_root(one + matrix @ matrix.T), one)


@jax.custom_jvp
def _inverse_root(matrix: Array) -> Array:
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors / jnp.sqrt(values)) @ vectors.T


@_inverse_root.defjvp
def _inverse_root_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """Divided differences of b^{−½}, which equal eigenvalues do not make singular as those of eigh."""
    values, vectors = jnp.linalg.eigh(primals[0])
    root = jnp.sqrt(values)
    slopes = -1 / (root[:, None] * root * (root[:, None] + root))
    inner = slopes * (vectors.T @ tangents[0] @ vectors)
    return (vectors / root) @ vectors.T, vectors @ inner @ vectors.T


def covariance(model: StateSpace, times: int | Array, outputs: int | None = None) -> Array:
    """The dense covariance of f at the given steps, O(T² S²); for tests and small T.

    Args:
        model: of one channel.
        times: how many steps from the first, or the sorted numbers of steps [T]. A model of irregular steps has its own
            times, of which this picks.
        outputs: C, for the covariance of the state's first C coordinates.

    Returns:
        [T, T]; with ``outputs`` [T, C, T, C].

    Raises:
        ValueError: unsorted or negative times, or more than the model has.

    Examples:
        >>> gp.covariance(gp.matern(0.5, 2.0), times=3).shape
        (3, 3)
    """
    size = checks.model(model, StateSpace)
    width = checks.count_of_outputs(outputs, size)
    chosen = checks.static_numbers("times", times, "how many steps, or their sorted numbers")
    if not chosen.ndim:
        checks.count("times", times, minimum=1)
        chosen = np.arange(int(chosen))
    if chosen.ndim != 1 or not chosen.size or (np.diff(chosen) < 0).any() or chosen[0] < 0 or (chosen % 1).any():
        raise ValueError(f"times: expected sorted step numbers >= 0, got {chosen}; sort them and count from 0")
    chosen = chosen.astype(int)
    if model.transition.ndim == 3 and chosen[-1] > len(model.transition):
        raise ValueError(
            f"times: expected at most {len(model.transition)} for the model's steps, got {chosen[-1]}; leave later out"
        )
    dense = _covariance(model, int(chosen[-1]) + 1, width)[chosen][:, :, chosen]
    return dense[:, 0, :, 0] if outputs is None else dense


@functools.partial(jax.jit, static_argnums=(1, 2))
def _covariance(model: StateSpace, length: int, width: int) -> Array:
    stationary = model.stationary_root @ model.stationary_root.T

    def body(past: Array, inputs: tuple) -> tuple[Array, Array]:
        """The covariance of x_t with every output before it, [T, S, C]."""
        time, transition = inputs
        past = jnp.where(jnp.arange(length)[:, None, None] == time, stationary[:, :width], past)
        return (model.transition if transition is None else transition) @ past, past[:, :width]

    times = jnp.arange(length)
    steps = None
    if model.transition.ndim == 3:
        steps = jnp.concatenate([model.transition, model.transition[-1:]])[:length]
    start = jnp.zeros((length, *stationary[:, :width].shape), stationary.dtype)
    lower = jax.lax.scan(body, start, (times, steps))[1].transpose(0, 2, 1, 3)
    return jnp.where((times[:, None] >= times)[:, None, :, None], lower, lower.transpose(2, 3, 0, 1))
