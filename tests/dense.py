"""Textbook linear-Gaussian inference with dense matrices in float64: the oracle of the tests. numpy only.

Parameters are a flat vector of D numbers. A precision comes as its diagonal d [D] and factor Wᵀ [k, D].
"""

import numpy as np
from numpy.linalg import inv, qr, slogdet, solve, svd


def relative_error(came, expected) -> float:
    """Largest difference over the largest expected magnitude (over one where all expected are zero)."""
    came, expected = np.asarray(came, np.float64), np.asarray(expected, np.float64)
    assert came.shape == expected.shape, (came.shape, expected.shape)
    if expected.size == 0:
        return 0.0
    if not np.isfinite(came).all():
        return np.inf
    return float(np.abs(came - expected).max() / (np.abs(expected).max() or 1.0))


def random_precision(rng, dimension, rank):
    """d [D] and Wᵀ [k, D] of a random, well-conditioned precision."""
    return rng.uniform(0.5, 2.0, dimension), rng.normal(size=(rank, dimension))


def matrix(diag, factor):
    """diag(d) + W Wᵀ."""
    diag, factor = np.asarray(diag, np.float64), np.asarray(factor, np.float64)
    return np.diag(diag) + factor.T @ factor


def logdet(precision):
    return slogdet(precision)[1]


def predict(precision, noise, transition=1.0):
    """(A P⁻¹ A + Q)⁻¹."""
    ones = np.ones(len(precision))
    decay = np.diag(transition * ones)
    return inv(decay @ inv(precision) @ decay + np.diag(noise * ones))


def predicted_solve(diag, factor, noise, vector):
    """(P⁻¹ + Q)v, the covariance's action after prediction.

    P = RᵀR by a QR of [Wᵀ; D^{1/2}], whose condition number is the square root of P's, large rows first.
    """
    diag, factor, vector = (np.asarray(a, np.float64) for a in (diag, factor, vector))
    upper = qr(np.concatenate([factor, np.diag(np.sqrt(diag))]), mode="r")
    return solve(upper, solve(upper.T, vector)) + noise * vector


def update(mean, precision, jacobian, hessian, gradient):
    """One Newton step from the mean: N(m − (P + JᵀHJ)⁻¹Jᵀg, (P + JᵀHJ)⁻¹); J is [n, D], H is [n, n]."""
    posterior = precision + jacobian.T @ hessian @ jacobian
    return mean - solve(posterior, jacobian.T @ gradient), posterior


def gaussian_log_density(residual, covariance):
    """log N(residual; 0, covariance)."""
    return -0.5 * (residual @ solve(covariance, residual) + logdet(2 * np.pi * covariance))


def laplace_evidence(loss, shift, prior, posterior):
    """−loss − ½ shiftᵀ P shift + ½ log det P − ½ log det P⁺."""
    return -loss - 0.5 * shift @ prior @ shift + 0.5 * (logdet(prior) - logdet(posterior))


def block_diagonal(blocks):
    """[B, C, C] to [B·C, B·C]."""
    size = sum(len(block) for block in blocks)
    out, start = np.zeros((size, size)), 0
    for block in blocks:
        out[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    return out


def smooth(means, precisions, noises, transitions, center=0.0):
    """Rauch-Tung-Striebel in covariance form; entry t of noise and transition enters step t. Means, covariances."""
    size = means[0].size
    covariances = [inv(p) for p in precisions]
    mean, covariance = means[-1], covariances[-1]
    smoothed = [(mean, covariance)]
    for t in range(len(means) - 2, -1, -1):
        decay = np.diag(transitions[t + 1] * np.ones(size))
        predicted = decay @ covariances[t] @ decay.T + np.diag(noises[t + 1] * np.ones(size))
        gain = solve(predicted, decay @ covariances[t]).T
        mean = means[t] + gain @ (mean - center - decay @ (means[t] - center))
        covariance = covariances[t] + gain @ (covariance - predicted) @ gain.T
        smoothed.append((mean, covariance))
    return [np.stack(part) for part in zip(*smoothed[::-1], strict=True)]


def best_rank(factor, rank, diag=None):
    """The best rank-k part of W Wᵀ [D, D] in the metric of diag, and its singular values."""
    root = np.ones(factor.shape[1]) if diag is None else np.sqrt(diag)
    _, values, right = svd(factor / root, full_matrices=False)
    kept = values[:rank, None] * right[:rank] * root
    return kept.T @ kept, values


def map_estimate(mean, precision, inputs, targets, covariance):
    """argmin of ½Σ‖y − Xθ‖²/R + ½(θ − m)ᵀP(θ − m); one output."""
    posterior = precision + inputs.T @ inputs / covariance
    return solve(posterior, precision @ mean + inputs.T @ targets / covariance)


def finite_difference(function, at, step=1e-5):
    """Central difference, fourth order."""
    ahead, behind = function(at + step), function(at - step)
    ahead2, behind2 = function(at + 2 * step), function(at - 2 * step)
    return (8 * (ahead - behind) - (ahead2 - behind2)) / (12 * step)
