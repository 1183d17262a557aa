"""Scores in units of the series, and a whole small study: saved one by one, resumed, refused when changed."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.data.series import Series
from experiments.run import cache
from experiments.run.report import page
from experiments.run.search import beyond
from experiments.streaming import models, protocol, scores, training
from experiments.streaming.comparison import StreamComparison
from experiments.streaming.models import known, pick
from experiments.streaming.models.entry import Entry
from experiments.streaming.training import Budget
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

    def test_errors_see_that_neighbours_are_alike_and_that_seeds_differ(self) -> None:
        rng = np.random.default_rng(0)
        alone, alike = rng.normal(size=2000), np.repeat(rng.normal(size=200), 10)
        assert scores.block_error(alone, 40) == pytest.approx(2000**-0.5, rel=0.25)
        assert scores.block_error(alike, 40) == pytest.approx(200**-0.5, rel=0.3)
        shifted = alike + np.array([[-1.0], [0.0], [1.0]])
        expected = np.hypot(scores.block_error(alike, 40), 3**-0.5)
        assert scores.error_of(shifted, 40) == pytest.approx(expected)
        assert scores.error_of(np.array([[0.0, np.inf]]), 1) is None
        # What two models share cancels, step by step.
        difference = scores.paired(shifted, np.where(np.arange(2000) == 3, np.nan, alike + 0.5), 40)
        assert difference["difference"] == pytest.approx(-0.5) and difference["error"] == pytest.approx(3**-0.5)
        assert len(difference["per_seed"]) == 3


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


@dataclasses.dataclass(frozen=True)
class Small(StreamComparison):
    """A study of the test's."""


def study(stream: protocol.Stream, output: Path, names: list[str], budget: Budget = BUDGET, **options) -> dict:
    entries = {name: models.known()[name] for name in names}
    Small(output=output).compare(Console(quiet=True), "small", "words", {"easy": stream}, entries, budget, **options)
    return json.loads((output / "small/results.json").read_text(encoding="utf-8"))["variants"]["easy"]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """Choices that were tried and that were run, with the validation score each was given: the lowest rate's."""
    seen: dict[str, list] = {"attempt": [], "run": []}

    def attempt(entry: Entry, stream: protocol.Stream, budget: Budget, choice: dict, folder: Path) -> np.ndarray:
        seen["attempt"].append(choice)
        rate = choice.get("learning_rate", 1.0)
        return np.full(budget.tuning_seeds, np.nan if rate > 2 else abs(np.log(rate / 3e-2)))

    def run(entry: Entry, stream: protocol.Stream, budget: Budget, choice: dict, folder: Path) -> training.Found:
        seen["run"].append(choice)
        rng = np.random.default_rng(budget.updates)
        steps = scores.Steps(
            *(rng.uniform(size=(budget.seeds, len(stream.test.ys))).astype(np.float32) for _ in range(6))
        )
        latent = np.zeros((5, 2)) if hasattr(entry.model(2, 10), "update") else None
        info = {"parameters": 3, "seconds": 1.5, "held_out": steps.crps[:, 0]}
        return training.Found(steps, steps.nll[0], latent, info)

    monkeypatch.setattr(training, "attempt", attempt)
    monkeypatch.setattr(training, "run", run)
    monkeypatch.setattr(training, "microseconds", lambda entries, *_: dict.fromkeys(entries, 2.0))
    return seen


def test_a_study_goes_on_with_what_is_there(
    stream: protocol.Stream, tmp_path: Path, counted: dict[str, list], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Small, "pictures", classmethod(lambda *_: {}))  # of which the next test is
    first = study(stream, tmp_path, ["gru"])
    # The best rate lies inside of what was tried: the search went on past it.
    assert [choice["learning_rate"] for choice in counted["attempt"]] == pytest.approx([1e-2, 3e-2, 9e-2])
    assert first["models"]["gru"]["chosen"] == {"learning_rate": 3e-2} and len(counted["run"]) == 1
    both = study(stream, tmp_path, ["lt_structured", "persistence"])
    assert list(counted["attempt"][3]) == ["learning_rate", "predictive"] and len(counted["run"]) == 3
    # What an earlier run found stays in the table, and is compared.
    assert set(both["models"]) == {"gru", "lt_structured", "persistence"}
    assert both["models"]["gru"]["validation"] == first["models"]["gru"]["validation"]
    assert both["models"]["gru"]["microseconds_per_step"] == 2.0 and both["models"]["gru"]["parameters"] == 3
    assert {(pair["better"], pair["worse"]) for pair in both["paired"]} == {("lt_structured", "gru")}
    per_seed = np.subtract(*(both["models"][name]["nll"]["per_seed"] for name in ("lt_structured", "gru")))
    assert both["paired"][0]["difference"] == pytest.approx(per_seed.mean(), abs=1e-5)
    count = {name: len(calls) for name, calls in counted.items()}
    study(stream, tmp_path, ["lt_structured", "persistence"])
    assert {name: len(calls) for name, calls in counted.items()} == count
    # Another grid tries what is new; another budget is another run; other data too.
    wider = study(stream, tmp_path, ["gru"], BUDGET._replace(learning_rates=(1e-3, 1e-2, 3e-2, 9e-2)))
    assert len(counted["attempt"]) == count["attempt"] + 1 and len(counted["run"]) == count["run"]
    assert len(wider["models"]["gru"]["validation"]) == 4
    study(stream, tmp_path, ["gru"], BUDGET._replace(updates=6))
    assert len(counted["run"]) == count["run"] + 1
    moved = stream._replace(test=stream.test._replace(ys=stream.test.ys + 1))
    assert set(study(moved, tmp_path, ["gru"])["models"]) == {"gru"}
    assert len(counted["run"]) == count["run"] + 2
    # So is another width, and so is other code.
    wider_one = dataclasses.replace(models.known()["gru"], options={"hidden": 60})
    with monkeypatch.context() as other:
        other.setattr(models, "known", lambda: {"gru": wider_one})
        study(stream, tmp_path, ["gru"])
    assert len(counted["run"]) == count["run"] + 3
    monkeypatch.setattr(cache, "code", lambda module: "changed")
    assert set(study(stream, tmp_path, ["gru"])["models"]) == {"gru"}
    assert len(counted["run"]) == count["run"] + 4


def test_the_page_has_every_model_and_picture(
    stream: protocol.Stream, tmp_path: Path, counted: dict[str, list]
) -> None:
    study(stream, tmp_path, ["lt_structured", "gru"])
    folder = tmp_path / "small"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text == page(Small, folder) and "| LatentTrack, structured |" in text and "words" in text
    assert "Not part of this run: GRU, mixture of 32; Latent filter, z as an input." in text
    names = {"band", "pit", "calibration", "nll", "uncertainty", "latent"}
    assert {path.name for path in folder.glob("*.png")} == {f"easy-{name}.png" for name in names}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))
    assert (folder / "arrays.npz").stat().st_size < 100_000


def test_the_page_says_what_the_validation_span_takes(
    stream: protocol.Stream, tmp_path: Path, counted: dict[str, list], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Small, "pictures", classmethod(lambda *_: {}))
    found = study(stream, tmp_path, ["lt_structured", "lt_adapted", "gru", "vrnn"])
    for name, value in (("lt_structured", -1.0), ("lt_adapted", -1.25)):
        found["models"][name]["held_out"] = {"mean": value}

    def said(**differences: float) -> str:
        for pair in found["paired"]:
            pair |= {"difference": differences.get(pair["worse"], -1.0), "error": 0.1}
        parts = Small.tables({"variants": {"easy": found}}).values()
        return next(line for part in parts if isinstance(part, str) for line in part.split("\n") if "takes" in line)

    shown = "The validation span (LatentTrack, structured -1.0000, LatentTrack, adapted by a filter -1.2500) takes "
    assert said() == f"{shown}LatentTrack, adapted by a filter: it is first by more than two errors."
    assert said(gru=-0.1).endswith("it is not ahead of GRU, Gaussian head by two errors.")
    assert said(lt_structured=1.0).endswith("first by more than two errors.")
    found["models"]["lt_structured"]["held_out"] = {"mean": -1.5}
    assert "takes LatentTrack, structured: it is not ahead of VRNN" in said(vrnn=0.0)


@pytest.mark.slow
def test_a_study_with_training(stream: protocol.Stream, tmp_path: Path) -> None:
    found = study(stream, tmp_path, ["lt_structured", "gru", "persistence"])["models"]
    for one in found.values():
        assert len(one["nll"]["per_seed"]) == 2
        for field in ("nll", "mse", "crps", "coverage90"):
            assert np.isfinite(one[field]["mean"])
        assert one["max_nll"] >= one["nll"]["mean"] and one["microseconds_per_step"] > 0
    rates = [one["learning_rate"] for one in found["gru"]["validation"]]
    assert rates[:2] == [1e-2, 3e-2] and min(rates) < found["gru"]["chosen"]["learning_rate"] < max(rates)
    assert not [path for path in (tmp_path / "small/cache").iterdir() if path.is_dir()]


def test_the_search_goes_on_past_an_edge_by_the_same_factor() -> None:
    assert beyond((1e-2, 2e-2), 1e-2) == pytest.approx(5e-3) and beyond((1e-2, 2e-2), 2e-2) == pytest.approx(4e-2)
    assert beyond((5e-3, 1e-2, 2e-2), 1e-2) is None and beyond((1e-2,), 1e-2) is None


def test_unknown_models_are_refused() -> None:
    with pytest.raises(ValueError, match="got gnu"):
        pick(["gnu"])
    assert list(pick(None)) == list(known()) and next(iter(known())) == "lt_structured"


def test_the_scale_is_traced(stream: protocol.Stream) -> None:
    outputs = Outputs(jnp.zeros((3, 1, 1)), jnp.ones((3, 1, 1)), jnp.zeros(3))
    found = jax.jit(lambda scale: scores.steps(outputs, jnp.zeros((3, 1)), None, scale).nll)(2.0)
    np.testing.assert_allclose(found, np.log(2.0), rtol=1e-6)
