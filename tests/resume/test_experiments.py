"""Experiments that are cut off go on; other settings, two runs in one folder and damaged files are named."""

import json
import re
import sys
from pathlib import Path
from types import MappingProxyType

import killing
import numpy as np
import pytest
from rich.console import Console

from experiments import methods
from experiments.__main__ import All, main
from experiments.claim import SettingsChangedError, claimed, read_json
from experiments.continual.comparison import compare
from experiments.jena import Jena
from experiments.continual.learners import Method, Training, follow
from experiments.continual.networks import mlp
from experiments.sequences.long import LongSequence
from experiments.sequences.rotated_digits import RotatedDigits
from experiments.sequences.rotated_mnist import RotatedMnist
from experiments.streaming import records
from experiments.continual.tasks import Tasks
from experiments.run.cache import Cache
from lowrank_filter.common.lock import alone

RNG = np.random.default_rng(0)
IMAGES = [RNG.uniform(size=(2, 2, 20, 9)).astype(np.float32) for _ in range(3)]
LABELS = [RNG.integers(0, 2, (2, 2, 20)).astype(np.int32) for _ in range(3)]
TASKS = Tasks(*(part for pair in zip(IMAGES, LABELS, strict=True) for part in pair), names=("a", "b"))
GRID = MappingProxyType({"learning_rate": (1e-3, 1e-2, 3e-2)})


def grid(output, **options):
    """A comparison of one method at three learning rates."""
    _, found = compare(
        "grid",
        "A grid",
        methods=[Method({"sequential": "last"}, GRID, follow(methods.sequential))],
        network=mlp(9, (4,), 2),
        training=Training(2, None, None),
        tasks=TASKS,
        seeds=[0, 1],
        settings={},
        pairs=[],
        output=output,
        console=Console(quiet=True),
        **options,
    )
    return found["sequential"]


class StoppedError(Exception):
    pass


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A folder with a comparison that was stopped after its second configuration."""
    recall = Unfinished.recall

    def counted(self, key, *arguments):
        if key["hyper"]["learning_rate"] == 3e-2:
            raise StoppedError
        return recall(self, key, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Unfinished, "recall", counted)
        with pytest.raises(StoppedError):
            grid(tmp_path, options={"rank": 3})
    return tmp_path


def kept(output):
    return sorted((output / "grid" / "unfinished").glob("*.npz"))


def test_other_settings_are_refused_and_the_difference_shown(stopped):
    before = [path.stat().st_mtime_ns for path in kept(stopped)]
    with pytest.raises(SettingsChangedError, match=r"option rank was 3 and is 4.*--no-resume"):
        grid(stopped, options={"rank": 4})
    assert [path.stat().st_mtime_ns for path in kept(stopped)] == before and len(before) == 2
    grid(stopped, options={"rank": 4}, resume=False)
    assert json.loads((stopped / "grid" / "results.json").read_text())["experiment"] == "grid"
    assert not (stopped / "grid" / "unfinished").exists()


def test_a_value_cut_in_half_is_named_and_computed_again(stopped):
    path = kept(stopped)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=rf"{path}: expected a whole file, but .*computed again"):
        again = grid(stopped, options={"rank": 3})
    whole = grid(stopped / "whole")
    np.testing.assert_array_equal(again.accuracy, whole.accuracy)
    np.testing.assert_array_equal(again.nll, whole.nll)


def test_two_runs_into_one_folder_do_not_mix(tmp_path):
    with alone(tmp_path / "grid"), pytest.raises(RuntimeError, match=r"grid: expected no other run in this folder"):
        grid(tmp_path)
    with alone(tmp_path), pytest.raises(RuntimeError, match="expected no other run"):
        All(output=tmp_path).run(Console(quiet=True))


def test_what_is_measured_is_no_setting(tmp_path):
    """A run's identity would otherwise differ at each start."""
    grid(tmp_path, notes={"seconds": 1.5})
    assert json.loads((tmp_path / "grid" / "results.json").read_text())["settings"]["seconds"] == 1.5


def test_a_damaged_note_is_named(tmp_path):
    with claimed(tmp_path / "runs", {"a": 1}):
        pass
    (tmp_path / "runs" / "settings.json").write_text('{"a": ')
    with (
        pytest.raises(ValueError, match=r"settings\.json: expected a whole JSON file.*remove it"),
        claimed(tmp_path / "runs", {"a": 1}),
    ):
        pass
    assert read_json(tmp_path / "missing.json", 3) == 3


def test_damaged_scores_are_named(tmp_path):
    records.note(tmp_path, "gru", {"chosen": {}})
    np.savez(tmp_path / "gru.npz", mean=np.zeros(100))
    for content in ((tmp_path / "gru.npz").read_bytes()[:200], (tmp_path / "gru.npz").read_bytes()):
        (tmp_path / "gru.npz").write_bytes(content)
        with pytest.raises(ValueError, match=rf"{tmp_path}/gru\.npz: expected the whole file of a model's scores"):
            records.load(tmp_path, "gru", None)


def test_no_file_with_objects_is_unpickled(tmp_path):
    """An array of objects would run code of whoever wrote the file."""
    unfinished = Unfinished(tmp_path, {})
    np.savez(unfinished.place({}).with_suffix(".npz"), np.array([{}], dtype=object))
    with pytest.warns(UserWarning, match="allow_pickle"):
        assert unfinished.recall({}, lambda: np.ones(1), lambda: np.ones(1)) == 1


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        (RotatedDigits, {"seeds": 0}, "seeds: expected an integer of at least 1, got 0"),
        (RotatedDigits, {"rank": -1}, "rank: expected an integer of at least 0, got -1"),
        (RotatedDigits, {"steps": 2.5}, r"steps: expected an integer of at least 1, got 2\.5"),
        (RotatedDigits, {"resume": 1}, "resume: expected a bool, got 1"),
        (RotatedDigits, {"preset": "large"}, "preset: expected one of minutes, published, got 'large'"),
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
        RotatedDigits.of("minutes", sedes=3)


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
        assert not (path.parent / "unfinished").exists()
        assert {p.name for p in path.parent.iterdir()} >= {"accuracy.png", "README.md"}
        for file in path.parent.iterdir():
            file.unlink()
        return content

    command = [sys.executable, "-m", "experiments", "rotated-digits", *options]
    assert killing.survive(command, outcome, kills=20, seed=0) >= 1
