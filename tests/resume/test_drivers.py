"""Drivers of both packages killed and started again end bit for bit as if nothing had happened."""

import random
import shutil
import sys
import time

import jax
import killing
import pytest
import runs

import lowrank_filter.common.checkpoint


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
    """A folder with a stream that was stopped after its second piece and went on to its end, and what it returned."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        stopped_after(patched, lowrank_filter.common.checkpoint, 2)
        with pytest.raises(StoppedError):
            runs.stream(folder, every=20)
    return folder, runs.stream(folder, every=20)


@pytest.fixture(scope="module")
def whole():
    """What the stream returns in one piece."""
    return runs.stream(None)


def test_a_stopped_stream_in_pieces_is_the_stream(finished, whole):
    _, (belief, kept) = finished
    assert runs.digest((belief, kept)) == runs.digest(whole)
    assert jax.tree.structure(kept) == jax.tree.structure(whole[1]) and kept.info.loss.shape == (60,)


def test_a_stopped_fit_goes_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stopped_after(patched, lowrank_filter.common.checkpoint, 2)
        with pytest.raises(StoppedError):
            runs.fit(tmp_path, every=30)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".running", "30", "60"]
    assert runs.digest(runs.fit(tmp_path, every=30)) == runs.digest(runs.fit(None))


@pytest.mark.slow
def test_a_stopped_rollout_goes_on(tmp_path, monkeypatch):
    import lowrank_filter.common.checkpoint  # noqa: PLC0415

    with monkeypatch.context() as patched:
        stopped_after(patched, lowrank_filter.common.checkpoint, 2)
        with pytest.raises(StoppedError):
            runs.latent_rollout(tmp_path, every=20)
    assert runs.digest(runs.latent_rollout(tmp_path, every=20)) == runs.digest(runs.latent_rollout(None))


def test_a_finished_run_is_there_at_once(finished, monkeypatch):
    folder, expected = finished
    monkeypatch.setattr(lowrank_filter.common.checkpoint.Checkpoint, "save", None)
    assert runs.digest(runs.stream(folder, every=20)) == runs.digest(expected)


def test_changed_settings_are_refused(finished):
    """By their names, also what a filter or an optimiser closes over."""
    folder, _ = finished
    with pytest.raises(ValueError, match=r"got another one: process_noise was 0.001 and is 0.002; take"):
        runs.stream(folder, noise=2e-3)
    with pytest.raises(ValueError, match=r"got another one: data was \d+ numbers in \d+ arrays.* and is \d+"):
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


def command(name, folder):
    return [sys.executable, runs.__file__, name, str(folder / "saved"), str(folder / "result")]


@pytest.mark.slow
def test_a_stream_survives_a_kill(tmp_path, whole):
    """Somewhere in its middle, in whatever it is doing then."""
    process, saved = killing.start(command("stream", tmp_path)), tmp_path / "saved"
    while process.poll() is None and not any((saved / str(position)).exists() for position in range(15, 60, 3)):
        time.sleep(0.001)
    time.sleep(random.Random().uniform(0, 0.2))
    process.kill()
    process.communicate()
    assert not (tmp_path / "result").exists()
    _, error = killing.start(command("stream", tmp_path)).communicate()
    assert (tmp_path / "result").read_text() == runs.digest(whole), error


@pytest.mark.slow
@pytest.mark.parametrize("name", list(runs.RUNS))
def test_every_driver_survives_twenty_kills(tmp_path, name):
    def outcome():
        found = (tmp_path / "result").read_text()
        shutil.rmtree(tmp_path / "saved")
        (tmp_path / "result").unlink()
        return found

    assert killing.survive(command(name, tmp_path), outcome, kills=20, seed=len(name)) >= 1
