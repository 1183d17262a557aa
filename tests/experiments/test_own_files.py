"""One file each: an experiment, a method, a sequence and a model of a stream, as experiments/README.md shows them."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import catalogue, cli
from experiments.continual import learners, sequences
from experiments.data import series
from experiments.streaming import models

README = (Path(__file__).parents[2] / "experiments/README.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"`experiments/([\w/]+\.py)`[^\n]*:\n\n```python\n(.*?)```", README, re.DOTALL))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Put a file that the README shows beside the others of its kind."""

    def put(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(SHOWN[name], encoding="utf-8")
        assert len(SHOWN[name].splitlines()) < 30
        package = importlib.import_module("experiments." + ".".join(path.relative_to(tmp_path).parts[:-1]))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(path.parent)])
        known.append(f"{package.__name__}.{path.stem}")

    known = []
    for each in (learners, sequences, models):
        each.known.cache_clear()
    yield put
    for each in (learners, sequences, models):
        each.known.cache_clear()
    for name in known:
        sys.modules.pop(name, None)


def written(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_an_experiment(own, tmp_path, capsys):
    own("catalogue/coins.py")
    assert cli.catalogue()["coins"] == "How often coins of different weight show heads"
    cli.main(["coins", "--seeds", "2", "--output", str(tmp_path)])
    found = written(tmp_path / "coins")["methods"]
    chance = np.mean(np.random.default_rng(1).uniform(size=1000) < 0.7)
    assert found["heavy"]["heads"]["per_seed"][1] == chance > found["fair"]["heads"]["per_seed"][1]
    page = (tmp_path / "coins/README.md").read_text(encoding="utf-8")
    assert f"{found['heavy']['heads']['mean']:.4g}" in page and "heavy" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["coins", "--seeds", "0", "--output", str(tmp_path)])


def test_a_method_and_a_sequence(own, tmp_path):
    own("continual/learners/decaying.py")
    own("continual/sequences/upside_down.py")
    folder = str(tmp_path)
    options = ["--on", "upside-down", "--methods", "sequential", "decaying", "--seeds", "2", "--output", folder]
    cli.main(["sequence", *options])
    found = written(tmp_path / "sequence-upside-down")
    assert found["tasks"] == ["0°", "90°", "180°"] and found["methods"]["decaying"]["accuracy"]["mean"] > 0.2
    assert found["paired"][0]["better"] == "decaying" and len(found["paired"][0]["per_seed"]) == 2
    with pytest.raises(ValueError, match=r"methods: expected names of .*sequential.*got decay;"):
        cli.main(["sequence", "--methods", "decay", "--output", folder])


@pytest.mark.slow
def test_a_model_of_a_stream(own, tmp_path, monkeypatch):
    own("streaming/models/same_again.py")
    time = np.datetime64("2020-01-01", "s") + np.arange(600) * np.timedelta64(3600, "s")
    values = np.sin(np.arange(600) / 9).astype(np.float32)[:, None]
    monkeypatch.setitem(series.LOADERS, "ett", lambda: series.Series(values, time, ("OT",)))
    options = ["--streams", "ett", "--models", "same_again", "persistence", "--seeds", "1", "--output", str(tmp_path)]
    cli.main(["streams", *options])
    found = written(tmp_path / "streams")["variants"]["ett"]["models"]
    # A sine goes on as it went: the last residual is nearer to the next than none.
    assert found["same_again"]["mse"]["mean"] < found["persistence"]["mse"]["mean"]
    assert {path.name for path in (tmp_path / "streams").glob("*.png")} >= {"ett-band.png", "ett-nll.png"}


def test_every_kind_is_shown():
    assert {name.rpartition("/")[0] for name in SHOWN} == {
        "catalogue",
        "continual/learners",
        "continual/sequences",
        "streaming/models",
    }
    assert catalogue.__path__
