"""What is said of a classifier, and of the matrix of accuracies over a sequence of tasks."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import lowrank_filter as lf

_BINS = 15


def accuracy(logits: Float[Array, "n C"], y: Int[Array, " n"]) -> Float[Array, ""]:
    """The fraction of right answers."""
    return jnp.mean(jnp.argmax(logits, axis=1) == y)


def nll(logits: Float[Array, "n C"], y: Int[Array, " n"]) -> Float[Array, ""]:
    """The mean negative log-likelihood, in nats."""
    return jnp.mean(jax.vmap(lf.Categorical().nll)(logits, y))


def calibration_error(logits: Float[Array, "n C"], y: Int[Array, " n"]) -> Float[Array, ""]:
    """Expected calibration error: |accuracy − confidence| in 15 equal bins of confidence, weighted by their size."""
    confidence = jnp.max(jax.nn.softmax(logits), axis=1)
    bins = jnp.clip((confidence * _BINS).astype(int), 0, _BINS - 1)
    gap = (jnp.argmax(logits, axis=1) == y) - confidence
    return jnp.sum(jnp.abs(jax.ops.segment_sum(gap, bins, _BINS))) / len(y)


def current(matrix: Float[np.ndarray, "S T T"]) -> Float[np.ndarray, " S"]:
    """Accuracy on each task right after training on it, mean over tasks."""
    return np.diagonal(matrix, axis1=1, axis2=2).mean(axis=1)


def backward_transfer(matrix: Float[np.ndarray, "S T T"]) -> Float[np.ndarray, " S"]:
    """R[T, s] − R[s, s], mean over all tasks but the last (Lopez-Paz and Ranzato, 2017)."""
    return (matrix[:, -1] - np.diagonal(matrix, axis1=1, axis2=2))[:, :-1].mean(axis=1)


def forward_transfer(matrix: Float[np.ndarray, "S T T"], start: Float[np.ndarray, "S T"]) -> Float[np.ndarray, " S"]:
    """R[s − 1, s] less the accuracy of the untrained network, mean over all tasks but the first (the same paper)."""
    return (np.diagonal(matrix, offset=1, axis1=1, axis2=2) - start[:, 1:]).mean(axis=1)


def forgetting(matrix: Float[np.ndarray, "S T T"]) -> Float[np.ndarray, " S"]:
    """The best earlier accuracy on a task less the last, mean over all tasks but the last (Chaudhry et al., 2018)."""
    seen = np.tril(np.ones(matrix.shape[1:], bool))
    best = np.where(seen, matrix, -np.inf)[:, :-1].max(axis=1)
    return (best - matrix[:, -1])[:, :-1].mean(axis=1)
