"""The accelerator's benchmark ends on a CPU, in a few small sizes, and writes what it measured."""

import dataclasses
import json

import pytest

from benchmarks import accelerator, measure


@pytest.mark.slow
def test_it_runs_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    tiny = {"steps": 5, "seeds": (1, 2), "parameters": 2_000, "latent_steps": 140, "repeats": 1}
    accelerator.main(dataclasses.replace(accelerator.SMALL, **tiny))
    (path,) = tmp_path.glob("accelerator-*.json")
    content = json.loads(path.read_text())
    assert content["command"] == "python -m benchmarks accelerator"
    assert all(row[1] > 0 for row in content["rows"])
    assert list(content["facts"]["throughput of seeds over one"]) == ["2 seeds, a step of one"]
