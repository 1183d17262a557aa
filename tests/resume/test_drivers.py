"""Drivers of both packages killed and started again end bit for bit as if nothing had happened."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
import runs

import lowrank_filter.drivers.checkpoint

ROOT = Path(runs.__file__).parent.parent


class StoppedError(Exception):
    pass


def stopped_after(monkeypatch, module, saves):
    """Let a run stop when it has saved so many times."""
    done = []
    save = module.Checkpoint.save

    def counted(self, position, state):
        save(self, position, state)
        done.append(position)
        if len(done) == saves:
            raise StoppedError

    monkeypatch.setattr(module.Checkpoint, "save", counted)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a stream that has come to its end, and what it returned."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, runs.stream(folder, every=20)


def test_a_stream_in_pieces_is_the_stream(finished):
    _, (belief, kept) = finished
    expected = runs.stream(None)
    assert runs.digest((belief, kept)) == runs.digest(expected)
    assert jax.tree.structure(kept) == jax.tree.structure(expected[1]) and kept.info.loss.shape == (60,)


def test_a_stopped_stream_goes_on(tmp_path, monkeypatch):
    options = {"history": "all", "every": 20}
    with monkeypatch.context() as patched:
        stopped_after(patched, lowrank_filter.drivers.checkpoint, 2)
        with pytest.raises(StoppedError):
            runs.stream(tmp_path, **options)
    assert runs.digest(runs.stream(tmp_path, **options)) == runs.digest(runs.stream(None, history="all"))


def test_a_stopped_fit_goes_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stopped_after(patched, lowrank_filter.drivers.checkpoint, 2)
        with pytest.raises(StoppedError):
            runs.fit(tmp_path, every=30)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".running", "30", "60"]
    assert runs.digest(runs.fit(tmp_path, every=30)) == runs.digest(runs.fit(None))


def test_a_stopped_rollout_goes_on(tmp_path, monkeypatch):
    import latenttrack.drivers.checkpoint  # noqa: PLC0415

    with monkeypatch.context() as patched:
        stopped_after(patched, latenttrack.drivers.checkpoint, 2)
        with pytest.raises(StoppedError):
            runs.latent_rollout(tmp_path, every=20)
    assert runs.digest(runs.latent_rollout(tmp_path, every=20)) == runs.digest(runs.latent_rollout(None))


def test_a_finished_run_is_there_at_once(finished, monkeypatch):
    folder, expected = finished
    monkeypatch.setattr(lowrank_filter.drivers.checkpoint.Checkpoint, "save", None)
    assert runs.digest(runs.stream(folder, every=20)) == runs.digest(expected)


def test_changed_settings_are_refused(finished):
    """Also those that only the program shows: a noise within a filter, a network."""
    folder, _ = finished
    with pytest.raises(ValueError, match=r"got another one: program was text of SHA-256 .* and is text"):
        runs.stream(folder, noise=2e-3)
    with pytest.raises(ValueError, match=r"got another one: data was 300 numbers in 3 arrays.* and is 300"):
        runs.stream(folder, x=runs.X + 1)
    with pytest.raises(ValueError, match="history was 'final' and is 'means'"):
        runs.stream(folder, history="means")


def test_not_within_a_traced_function(tmp_path):
    with pytest.raises(TypeError, match=r"checkpoint: expected a call outside of jax\.jit"):
        jax.jit(lambda x: runs.stream(tmp_path, x=x))(runs.X)


@pytest.mark.parametrize("every", [0, 2.5, True])
def test_pieces_have_a_step(tmp_path, every):
    for run in (runs.stream, runs.fit, runs.latent_rollout):
        with pytest.raises(ValueError, match="checkpoint_every: expected a static integer >= 1"):
            run(tmp_path, every=every)


def started(name, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "runs.py"), name, str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n", process.communicate()
    return process


def survive(name, folder, kills):
    """Kill a run at random moments, until it has been killed often enough, and compare each end that it comes to."""
    began = time.monotonic()
    expected = started(name, folder / "whole").communicate()[0]
    span, done, ends = time.monotonic() - began, 0, 0
    chance = random.Random(name)
    while done < kills or not ends:
        process = started(name, folder / "killed")
        try:
            out, error = process.communicate(timeout=chance.uniform(0, span) if done < kills else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            done += 1
            continue
        assert out == expected, error
        ends += 1
        if done < kills:
            shutil.rmtree(folder / "killed")
    return done, ends


def test_a_stream_survives_a_kill(tmp_path):
    """Somewhere in its middle, in whatever it is doing then."""
    process = started("stream", tmp_path)
    while not {path.name for path in tmp_path.iterdir()} & {str(position) for position in range(15, 60, 3)}:
        time.sleep(0.001)
    time.sleep(random.Random().uniform(0, 0.2))
    process.kill()
    assert process.communicate()[0] == ""
    out, error = started("stream", tmp_path).communicate()
    assert out.strip() == runs.digest(runs.stream(None)), error


@pytest.mark.slow
@pytest.mark.parametrize("name", list(runs.RUNS))
def test_every_driver_survives_twenty_kills(tmp_path, name):
    kills, ends = survive(name, tmp_path, 20)
    assert kills == 20 and ends >= 1
