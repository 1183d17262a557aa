"""Dense Gaussian processes in float64, written from the covariance alone."""

import numpy as np


def matern(order, lengthscale, variance, times):
    r = np.abs(times[:, None] - times) * np.sqrt(2 * order) / lengthscale
    polynomial = {0.5: 1, 1.5: 1 + r, 2.5: 1 + r + r**2 / 3}[order]
    return variance * polynomial * np.exp(-r)


def posterior(K, y, precision):
    """Mean, covariance, KL and log Z of p(f) ∏ exp(−½ λ (y − f)²)."""
    y, precision = y.ravel(), precision.ravel()
    weighted = np.eye(len(K)) + K * precision
    S = np.linalg.solve(weighted, K)
    mean = S @ (precision * y)
    half = np.eye(len(K)) + np.sqrt(precision)[:, None] * K * np.sqrt(precision)
    log_z = -0.5 * np.linalg.slogdet(half)[1] - 0.5 * y @ (precision * np.linalg.solve(weighted, y))
    divergence = gaussian_divergence(mean, S, K)
    return mean, S, divergence, log_z


def gaussian_divergence(mean, S, K):
    """KL(N(mean, S) ‖ N(0, K))."""
    trace = np.trace(np.linalg.solve(K, S))
    fit = mean @ np.linalg.solve(K, mean)
    return 0.5 * (trace + fit - len(K) + np.linalg.slogdet(K)[1] - np.linalg.slogdet(S)[1])


def log_density(y, K):
    return -0.5 * (y @ np.linalg.solve(K, y) + np.linalg.slogdet(2 * np.pi * K)[1])
