"""Scores in units of the series, and a whole small study: saved one by one, resumed, refused when changed."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.claim import SettingsChangedError
from experiments.data.series import Series
from experiments.streaming import comparison, pictures, protocol, records, scores
from experiments.streaming.models import MODELS
from experiments.streaming.study import Budget
from latenttrack import Outputs


def mixture() -> tuple[np.ndarray, np.ndarray]:
    return np.array([-1.0, 0.5, 2.0]), np.array([0.3, 1.0, 0.05])


class TestScores:
    def test_steps_are_in_units_of_the_series(self) -> None:
        mean, variance = (jnp.asarray(a, jnp.float32)[None, :, None] for a in mixture())
        outputs = Outputs(mean, variance, jnp.array([-1.5]))
        found = scores.steps(outputs, jnp.array([[0.2]]), None, 0.1)
        assert found.nll[0] == pytest.approx(1.5 + np.log(0.1))
        assert found.error[0] == pytest.approx(0.1 * (0.5 - 0.2), rel=1e-5)
        total = found.aleatoric[0] + found.epistemic[0]
        assert total == pytest.approx(0.01 * (np.mean(mixture()[1]) + np.var(mixture()[0])), rel=1e-5)

    def test_failures_are_counted(self) -> None:
        nll = np.zeros((4, 100))
        nll[0, 3], nll[1, 5], nll[2, 7] = 2e6, 11.0, np.inf  # as an overflow gives it
        found = scores.Steps(nll, *(np.full((4, 100), 0.5) for _ in range(5)))
        summary = scores.summary(found, None)
        assert summary["failure_rate"] == 0.5 and summary["not_finite"] == 1
        assert summary["nll"]["mean"] is None and summary["max_nll"] is None
        assert summary["spikes"]["per_seed"] == [1, 1, 1, 0]
        json.dumps(summary, allow_nan=False)

    def test_rank_one_shares_add_up(self) -> None:
        rng = np.random.default_rng(0)
        share = scores.rank_one({"a": rng.normal(size=(2, 50)), "b": rng.normal(size=(2, 50))})
        assert sum(share.values()) == pytest.approx(1)


@pytest.fixture(scope="module")
def stream() -> protocol.Stream:
    rng = np.random.default_rng(0)
    time = np.datetime64("2020-01-01", "s") + np.arange(900) * np.timedelta64(3600, "s")
    values = np.stack([np.sin(np.arange(900) / 4), np.cumsum(rng.normal(size=900))], axis=1).astype(np.float32)
    values[5, 1] = np.nan
    given = Series(values, time, ("a", "b"))
    return protocol.prepare(given, "a", lag=1, day=24, spans=protocol.shares(given))


# As many tuning as scored seeds: one program for both.
BUDGET = Budget(
    seeds=2,
    tuning_seeds=2,
    learning_rates=(1e-2, 3e-2),
    predictives=(0.9,),
    updates=4,
    batch=2,
    window=16,
    samples=4,
    evaluate_every=2,
)


@pytest.mark.slow
def test_a_study_is_saved_one_by_one_and_goes_on(stream: protocol.Stream, tmp_path: Path) -> None:
    console = Console(quiet=True)
    entries = comparison.pick(["lt_structured", "gru", "persistence"])
    only = {"gru": entries["gru"]}
    place = tmp_path / "small/runs/easy"
    comparison.run("small", {"easy": stream}, only, BUDGET, tmp_path, console)
    before = (place / "gru.json").stat().st_mtime_ns
    content, found = comparison.run("small", {"easy": stream}, entries, BUDGET, tmp_path, console)
    assert (place / "gru.json").stat().st_mtime_ns == before
    written = json.loads((tmp_path / "small/results.json").read_text(encoding="utf-8"))
    models = written["variants"]["easy"]["models"]
    assert set(models) == set(entries)
    for one in models.values():
        assert len(one["nll"]["per_seed"]) == 2
        for field in ("nll", "mse", "crps", "coverage90"):
            assert np.isfinite(one[field]["mean"])
        assert one["max_nll"] >= one["nll"]["mean"] and one["microseconds_per_step"] > 0
    assert models["gru"]["validation"] == records.noted(place, "gru.tried", None) and models["gru"]["quantile999"] > 0
    per_seed = np.subtract(models["lt_structured"]["nll"]["per_seed"], models["gru"]["nll"]["per_seed"])
    assert written["variants"]["easy"]["paired"][0]["difference"] == pytest.approx(per_seed.mean(), abs=1e-5)
    # The search ends inside of what was tried; what was tried stays; another best rate is trained with again.
    tried = records.noted(place, "gru.tried", [])
    rates = [one["learning_rate"] for one in tried]
    assert rates[:2] == [1e-2, 3e-2] and min(rates) < models["gru"]["chosen"]["learning_rate"] < max(rates)
    least = rates.index(min(rates))
    tried[least]["nll"] = [-100.0, -100.0]
    records.note(place, "gru.tried", tried)
    comparison.run("small", {"easy": stream}, only, BUDGET, tmp_path, console)
    again = records.noted(place, "gru.tried", [])
    assert again[:-1] == tried and again[-1]["learning_rate"] == pytest.approx(min(rates) / 3)
    assert records.noted(place, "gru", {})["chosen"] == {"learning_rate": min(rates)}
    with pytest.raises(SettingsChangedError, match=r"'updates': 4.*'updates': 6"):
        comparison.run("small", {"easy": stream}, entries, BUDGET._replace(updates=6), tmp_path, console)
    names = pictures.draw(tmp_path, "easy", stream, found["easy"])
    assert {"easy-band.png", "easy-pit.png", "easy-nll.png", "easy-latent.png"} <= set(names)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)
    comparison.write_report(tmp_path / "README.md", content, "words", names)
    assert "easy-band.png" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_unknown_models_are_refused() -> None:
    with pytest.raises(ValueError, match="got gnu"):
        comparison.pick(["gnu"])
    assert list(comparison.pick(None)) == list(MODELS)


def test_the_scale_is_traced(stream: protocol.Stream) -> None:
    outputs = Outputs(jnp.zeros((3, 1, 1)), jnp.ones((3, 1, 1)), jnp.zeros(3))
    found = jax.jit(lambda scale: scores.steps(outputs, jnp.zeros((3, 1)), None, scale).nll)(2.0)
    np.testing.assert_allclose(found, np.log(2.0), rtol=1e-6)
