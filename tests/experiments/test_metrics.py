"""Metrics against their definitions, written as loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.continual import metrics
from experiments.continual.summary import MethodResult, build

RNG = np.random.default_rng(0)
MATRIX, START = RNG.uniform(size=(2, 4, 4)), RNG.uniform(size=(2, 4))


def test_transfer_and_forgetting() -> None:
    for seed, (R, b) in enumerate(zip(MATRIX, START, strict=True)):
        assert metrics.current(MATRIX)[seed] == pytest.approx(np.mean([R[t, t] for t in range(4)]))
        backward = np.mean([R[3, t] - R[t, t] for t in range(3)])
        assert metrics.backward_transfer(MATRIX)[seed] == pytest.approx(backward)
        forward = np.mean([R[t - 1, t] - b[t] for t in range(1, 4)])
        assert metrics.forward_transfer(MATRIX, START)[seed] == pytest.approx(forward)
        forgotten = np.mean([max(R[l, t] for l in range(t, 3)) - R[3, t] for t in range(3)])  # noqa: E741
        assert metrics.forgetting(MATRIX)[seed] == pytest.approx(forgotten)


def test_calibration_error() -> None:
    logits = jnp.asarray(RNG.normal(size=(200, 3)) * 2, jnp.float32)
    y = jnp.asarray(RNG.integers(3, size=200))
    probabilities = np.asarray(jax.nn.softmax(logits))
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == np.asarray(y)
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert float(metrics.calibration_error(logits, y)) == pytest.approx(error, abs=1e-5)


def test_a_sure_and_right_model_is_calibrated() -> None:
    assert float(metrics.calibration_error(jnp.eye(3) * 100, jnp.arange(3))) == pytest.approx(0, abs=1e-6)


def test_results_hold_them_all_with_their_standard_errors() -> None:
    found = MethodResult(MATRIX[:, -1], 1 - MATRIX[:, -1], MATRIX, {}, 0.5, ece=MATRIX[:, 0], start=START)
    content = build({}, list("abcd"), {"own": found})
    summary = content["methods"]["own"]
    for name in ("accuracy", "nll", "ece", "current", "backward_transfer", "forward_transfer", "forgetting"):
        assert set(summary[name]) >= {"mean", "standard_error", "per_seed"}, name
    assert summary["ece"]["mean"] == pytest.approx(MATRIX[:, 0].mean())
