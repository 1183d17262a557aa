"""Unigram and bigram counts, smoothed."""

import numpy as np


def unigram(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """Log probabilities [V], one count added to each token."""
    counts = np.bincount(tokens, minlength=vocabulary) + 1.0
    return np.log(counts / counts.sum())


def bigram(tokens: np.ndarray, vocabulary: int, strength: float = 20.0) -> np.ndarray:
    """Log probabilities [V, V] of the next token, drawn to the unigram by so many counts."""
    counts = np.bincount(tokens[:-1].astype(np.int64) * vocabulary + tokens[1:], minlength=vocabulary**2)
    counts = counts.reshape(vocabulary, vocabulary) + strength * np.exp(unigram(tokens, vocabulary))
    return np.log(counts / counts.sum(1, keepdims=True))


def score(tokens: np.ndarray, first: np.ndarray, following: np.ndarray | None) -> float:
    """Mean −log probability of windows [N, T], in nats per token."""
    if following is None:
        return float(-first[tokens].mean())
    own = np.concatenate([first[tokens[:, :1]], following[tokens[:, :-1], tokens[:, 1:]]], 1)
    return float(-own.mean())
