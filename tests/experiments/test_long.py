"""Long sequences: tasks made one at a time, blocks that are kept, and the bound that sees all tasks at once."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.catalogue.long import Block, Follower, Rows
from experiments.continual import learners, tasks
from experiments.continual.learners import Training
from experiments.continual.networks import mlp
from experiments.data.images import Images
from experiments.run.cache import Cache
from lowrank_filter.common.checkpoint import Checkpoint

RNG = np.random.default_rng(0)
TRAINING = Training(4, 10, None, decay=True, whitened=True)
NETWORK = mlp(784, (20,), 2)
HYPER = {"learning_rate": 1e-2}


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Two patterns of pixels in noise: each task's permutation hides them in another place."""
    patterns = RNG.normal(size=(2, 784))
    x = (patterns[np.arange(30) % 2] + 0.3 * RNG.normal(size=(30, 784))).astype(np.float32)
    return Rows(*map(jnp.asarray, (x[:20], np.arange(20) % 2, x[20:], np.arange(10) % 2)))


def test_tasks_follow_each_other_as_in_a_sequence_and_are_kept(rows: Rows, tmp_path: Path) -> None:
    follower = Follower(NETWORK, "a", learners.sequential, TRAINING, Cache(tmp_path, {}))
    first, second = follower.blocks(3, HYPER, rows, (1, 3))
    assert first.scores.accuracy.shape == (1,) and second.scores.nll.shape == (3,)
    assert len(second.current) == len(second.seconds) == 2
    assert second.current[-1] == second.scores.accuracy[-1]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = list(
        Follower(NETWORK, "a", learners.sequential, TRAINING, Cache(tmp_path, {})).blocks(3, HYPER, rows, (1, 3))
    )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times and len(times) == 2
    jax.tree.map(np.testing.assert_array_equal, again[1], second)


def test_a_block_goes_on_after_its_last_task(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StoppedError(Exception):
        pass

    def stop(self: Checkpoint, position: int, state: object) -> None:
        save(self, position, state)
        if position == 2:
            raise StoppedError

    def run(folder: Path) -> Block:
        (block,) = Follower(NETWORK, "a", learners.sequential, TRAINING, Cache(folder, {})).blocks(3, HYPER, rows, (3,))
        return block

    save = Checkpoint.save
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", stop)
        with pytest.raises(StoppedError):
            run(tmp_path / "stopped")
    (kept,) = (tmp_path / "stopped").iterdir()
    assert kept.is_dir() and {path.name for path in kept.iterdir()} == {".running", "1", "2"}
    resumed, whole = run(tmp_path / "stopped"), run(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, resumed._replace(seconds=0), whole._replace(seconds=0))
    assert len(resumed.seconds) == 3
    (kept,) = (tmp_path / "stopped").iterdir()
    assert kept.suffix == ".npz"


def test_permutations_are_those_of_the_short_sequences() -> None:
    x, y = np.arange(4 * 9, dtype=np.float32).reshape(4, 3, 3), np.zeros(4, np.int32)
    images = Images(x, y, x, y)
    short = tasks.permuted_split(images, 3, train=2, val=2, seeds=[5], held_out=2)
    orders = tasks.pixel_orders(5, 3, 9)
    for number, order in enumerate(orders):
        np.testing.assert_array_equal(short.test_x[0, number], images.test_x.reshape(4, 9)[:, order])


def test_joint_training_sees_every_task(rows: Rows, tmp_path: Path) -> None:
    training = TRAINING._replace(steps=100)
    (block,) = Follower(NETWORK, "joint", None, training, Cache(tmp_path, {})).blocks(0, HYPER, rows, (3,))
    assert block.scores.accuracy.shape == (3,)
    learned = rows._replace(score_x=rows.train_x, score_y=rows.train_y)
    (block,) = Follower(NETWORK, "again", None, training, Cache(tmp_path, {})).blocks(0, HYPER, learned, (3,))
    assert block.scores.accuracy.mean() > 0.8
