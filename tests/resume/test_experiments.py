"""Experiments that are cut off go on; other settings, two runs in one folder and damaged files are seen."""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path
from types import MappingProxyType

import jax
import killing
import numpy as np
import pytest
from rich.console import Console

from experiments.catalogue.jena import Jena
from experiments.catalogue.long import LongSequence
from experiments.catalogue.rotated_digits import RotatedDigits
from experiments.catalogue.rotated_mnist import RotatedMnist
from experiments.cli import main
from experiments.continual import comparison, learners
from experiments.continual.comparison import Comparison
from experiments.continual.evaluation import Report, Scores
from experiments.continual.learners import Method, Training, follow
from experiments.continual.networks import mlp
from experiments.continual.tasks import Tasks
from experiments.run.cache import Cache, code
from experiments.run.results import read
from lowrank_filter.common.lock import alone

RNG = np.random.default_rng(0)
IMAGES = [RNG.uniform(size=(2, 2, 20, 9)).astype(np.float32) for _ in range(3)]
LABELS = [RNG.integers(0, 2, (2, 2, 20)).astype(np.int32) for _ in range(3)]
TASKS = Tasks(*(part for pair in zip(IMAGES, LABELS, strict=True) for part in pair), names=("a", "b"))
GRID = MappingProxyType({"learning_rate": (1e-3, 1e-2, 3e-2)})


@dataclasses.dataclass(frozen=True)
class Grid(Comparison):
    """A comparison of one method at three learning rates."""

    rank: int = 3


def grid(output, resume=True, rank=3, tasks=TASKS, **more):
    """Run it; what its methods found."""
    Grid(output=output, resume=resume, rank=rank).compare(
        Console(quiet=True),
        "grid",
        "A grid",
        methods=[Method({"sequential": "last"}, GRID, follow(learners.sequential))],
        network=mlp(9, (4,), 2),
        training=Training(2, None, None),
        tasks=tasks,
        settings={},
        **more,
    )
    return read(output / "grid")["methods"]


class StoppedError(Exception):
    pass


@pytest.fixture
def computed(monkeypatch):
    """The learning rates that were computed and not found; the runner is a stand-in that needs no compiler."""
    rates = []

    def runner(run, which, scored, network, training, tasks, seeds):
        def reports(hyper):
            scores = Scores(*[np.full((2, 2), np.float32(hyper["learning_rate"]))] * 3)
            return {"last": Report(scores, scores, np.zeros((2, 2, 2), np.float32), np.zeros((2, 2), np.float32))}

        def call(hyper):
            if not isinstance(hyper["learning_rate"], jax.core.Tracer):
                rates.append(round(float(hyper["learning_rate"]), 6))
                if len(rates) == stop[0]:
                    raise StoppedError
            return reports(hyper) if not isinstance(hyper["learning_rate"], jax.core.Tracer) else traced(hyper)

        def traced(hyper):
            ones = jax.numpy.ones
            scores = Scores(*[ones((2, 2))] * 3)
            return {"last": Report(scores, scores, ones((2, 2, 2)), ones((2, 2)))}

        return call

    stop = [None]
    monkeypatch.setattr(comparison, "compile_runner", runner)
    rates_and_stop = rates, stop
    return rates_and_stop


@pytest.fixture
def stopped(tmp_path, computed):
    """A folder with a comparison that was stopped in its third configuration."""
    rates, stop = computed
    stop[0] = 3
    with pytest.raises(StoppedError):
        grid(tmp_path)
    stop[0] = None
    rates.clear()
    return tmp_path


def kept(output):
    return sorted((output / "grid" / "cache").glob("*.npz"))


def test_what_was_computed_is_not_computed_again(stopped, computed):
    assert len(kept(stopped)) == 2
    again = grid(stopped)
    assert computed[0] == [0.03]
    assert again == grid(stopped / "whole") and len(computed[0]) == 4
    grid(stopped)
    assert len(computed[0]) == 4


@pytest.mark.parametrize("change", ["option", "data", "code", "no resume"])
def test_what_anything_else_made_is_computed_anew(stopped, computed, change, monkeypatch):
    """The key holds the options, the data and all code that computes."""
    before = {path.name for path in kept(stopped)}
    options = {"option": {"rank": 4}, "data": {"tasks": TASKS._replace(test_x=TASKS.test_x + 1)}}.get(change, {})
    if change == "code":
        monkeypatch.setattr("experiments.run.cache.code", lambda module: f"{code(module)} and more")
    grid(stopped, resume=change != "no resume", **options)
    assert computed[0] == [0.001, 0.01, 0.03]
    assert len({path.name for path in kept(stopped)} - before) == (1 if change == "no resume" else 3)


def test_a_value_cut_in_half_is_named_and_computed_again(stopped, computed):
    path = kept(stopped)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=rf"{path}: expected a whole file, but .*computed again"):
        again = grid(stopped)
    assert len(computed[0]) == 2 and again == grid(stopped / "whole")


def test_two_runs_into_one_folder_do_not_mix(tmp_path):
    with alone(tmp_path / "grid"), pytest.raises(RuntimeError, match=r"grid: expected no other run in this folder"):
        grid(tmp_path)


def test_what_is_measured_is_no_setting(stopped, computed):
    """A run's identity would otherwise differ at each start."""
    grid(stopped, notes={"measured": 1.5})
    assert read(stopped / "grid")["measured"] == 1.5 and computed[0] == [0.03]


def test_damaged_results_are_named(tmp_path):
    (tmp_path / "results.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"results\.json: expected a whole JSON file of results, but .*run the"):
        read(tmp_path)


def test_no_file_with_objects_is_unpickled(tmp_path):
    """An array of objects would run code of whoever wrote the file."""
    cache = Cache(tmp_path, {})
    np.savez(cache.place({}).with_suffix(".npz"), np.array([{}], dtype=object))
    with pytest.warns(UserWarning, match="allow_pickle"):
        assert cache.recall({}, lambda: np.ones(1), lambda: np.ones(1)) == 1


def test_code_is_all_that_computes():
    assert code(Jena.__module__) == code.__wrapped__(Jena.__module__) != code(RotatedDigits.__module__)


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        (RotatedDigits, {"seeds": 0}, "seeds: expected an integer of at least 1, got 0"),
        (RotatedDigits, {"rank": -1}, "rank: expected an integer of at least 0, got -1"),
        (RotatedDigits, {"steps": 2.5}, r"steps: expected an integer of at least 1, got 2\.5"),
        (RotatedDigits, {"resume": 1}, "resume: expected a bool, got 1"),
        (RotatedDigits, {"preset": "large"}, "preset: expected one of default, got 'large'"),
        (RotatedMnist, {"noises": (0.1, -0.1)}, r"noises: expected a non-negative number, got -0\.1"),
        (RotatedMnist, {"curvatures": (float("nan"),)}, "curvatures: expected a positive number, got nan"),
        (RotatedMnist, {"structures": ()}, r"structures: expected at least one value, got \(\)"),
        (LongSequence, {"learning_rates": (0.0,)}, r"learning_rates: expected a positive number, got 0\.0"),
        (LongSequence, {"methods": ("kronecker", "oslo")}, "methods: expected one of .*got 'oslo'"),
        (Jena, {"updates": 0}, "updates: expected an integer of at least 1, got 0"),
        (Jena, {"variants": ("medium",)}, "variants: expected one of .*got 'medium'"),
    ],
)
def test_options_out_of_range_are_refused_by_name(experiment, options, message):
    with pytest.raises(ValueError, match=message):
        experiment(**options)


def test_unknown_options_are_refused_by_name():
    with pytest.raises(TypeError, match="sedes"):
        RotatedDigits.of("default", sedes=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"sedes": 3}', r"expected some of the options preset, .*seeds.*, got sedes"),
        ('{"seeds": 0}', "seeds: expected an integer of at least 1, got 0"),
        ('{"seeds": "3"}', "seeds: expected an integer of at least 1, got '3'"),
        ("[3]", "expected an object of options"),
        ('{"seeds": ', "expected a whole JSON file"),
        (None, "expected a JSON file of options, but there is none"),
    ],
)
def test_configuration_files_are_refused_by_name(tmp_path, capsys, content, message):
    path = tmp_path / "options.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as caught:
        main(["rotated-digits", "--config", str(path)])
    assert caught.value.code == 2
    assert re.search(f"{path}: {message}", capsys.readouterr().err)


def test_the_command_line_goes_before_a_configuration_file(tmp_path, monkeypatch):
    (tmp_path / "options.json").write_text('{"seeds": 2, "noises": [0.1, 0.3], "output": "elsewhere"}')
    seen = []
    monkeypatch.setattr(RotatedMnist, "run", lambda self, console: seen.append(self))
    main(["rotated-mnist", "--seeds", "4", "--config", str(tmp_path / "options.json")])
    (found,) = seen
    assert (found.seeds, found.noises, found.output) == (4, (0.1, 0.3), Path("elsewhere"))


def without_seconds(content):
    return {key: value for key, value in content.items() if key != "seconds"}


@pytest.mark.slow
def test_an_experiment_survives_twenty_kills(tmp_path):
    """The command line itself: each start is the same command, and only the seconds differ in the end."""
    options = ("--seeds", "1", "--steps", "3", "--train", "10", "--output", str(tmp_path))
    path = tmp_path / "rotated-digits" / "results.json"

    def outcome():
        content = without_seconds(json.loads(path.read_text(encoding="utf-8")))
        assert {p.name for p in path.parent.iterdir()} >= {"accuracy.png", "README.md"}
        shutil.rmtree(path.parent)
        return content

    command = [sys.executable, "-m", "experiments", "rotated-digits", *options]
    assert killing.survive(command, outcome, kills=20, seed=0) >= 1
