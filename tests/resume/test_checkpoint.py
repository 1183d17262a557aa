"""States of a run in a folder: whole, the last ones, bit for bit; damaged, foreign and other runs' are refused."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import lowrank_filter.common.checkpoint
import lowrank_filter.common.lock
from lowrank_filter.common import checksum
from lowrank_filter.common.checkpoint import Checkpoint
from lowrank_filter.common.lock import alone

IDENTITY = {"rate": 0.1, "data": {"x": np.arange(4.0)}, "note": "a", "nothing": None}


def state(position):
    """All that a state can hold: a key, bfloat16, an empty factor, a scalar, NaN, and an axis that grows."""
    values = jax.random.normal(jax.random.key(position), (3, 5))
    return {
        "key": jax.random.key(position),
        "half": values.astype(jnp.bfloat16),
        "empty": jnp.zeros((0, 5)),
        "count": jnp.asarray(position),
        "history": values[:, 0].at[0].set(jnp.nan).repeat(position),
    }


def save(folder, *positions, **options):
    with Checkpoint(folder, IDENTITY, **options) as saved:
        for position in positions:
            saved.save(position, state(position))


def restore(folder, **changes):
    with Checkpoint(folder, IDENTITY | changes) as saved:
        return saved.restore(state(1))


def assert_state(found, position):
    done, came = found
    assert done == position
    for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(state(position)), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = (
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf for leaf in (a, b)
        )
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def test_the_last_states_are_kept_bit_for_bit(tmp_path):
    assert restore(tmp_path)[0] == 0
    save(tmp_path, 1, 2, 3, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".running", "3", "4"]
    assert_state(restore(tmp_path), 4)
    save(tmp_path, 5, 6, keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".running", "4", "5", "6"]


# What orbax had begun to read when it met the damage is closed at some later time, with a complaint.
collected_later = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@collected_later
def test_every_file_of_a_state_may_be_cut_in_half(tmp_path):
    """Each in turn: the state is refused with its folder's name and the one before it used, or nothing is lost."""
    save(tmp_path, 1, 2)
    refused = 0
    for path in files(tmp_path / "2"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = restore(tmp_path)
        mine = [str(one.message) for one in caught if "checkpoint: going on from" in str(one.message)]
        if mine:
            assert_state(found, 1)
            assert f"{tmp_path / '2'}: " in mine[0]
            (aside,) = tmp_path.glob("refused-2*")
            aside.rename(tmp_path / "2")
            refused += 1
        else:
            assert_state(found, 2)
        path.write_bytes(content)
    assert refused >= 4  # the arrays, their index, their shapes, and what the run was
    assert_state(restore(tmp_path), 2)


@collected_later
def test_a_damaged_number_is_noticed(tmp_path):
    """Also where no codec has a checksum: a bit is flipped in every file that holds arrays."""
    save(tmp_path, 1)
    for path in (tmp_path / "1" / "state").rglob("d/*"):
        content = path.read_bytes()
        for at in range(0, len(content), max(1, len(content) // 7)):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            try:
                assert_state(restore(tmp_path), 1)
            except ValueError as error:
                assert str(tmp_path / "1") in str(error)  # noqa: PT017  either is right, a wrong number is not
        path.write_bytes(content)


def test_after_a_refused_state_the_run_goes_on(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "2" / "about" / "metadata").write_text("{")
    with pytest.warns(UserWarning, match=f"going on from {tmp_path / '1'}, since newer .*{tmp_path / '2'}: "):
        assert restore(tmp_path)[0] == 1
    save(tmp_path, 2, 3)
    assert_state(restore(tmp_path), 3)
    assert (tmp_path / "refused-2").is_dir()


def test_nothing_whole_is_an_error_and_not_a_new_start(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "1" / "about" / "metadata").write_text("{")
    with pytest.raises(ValueError, match=rf"expected a whole checkpoint.*{tmp_path / '1'}: .*remove this one"):
        restore(tmp_path)
    assert (tmp_path / "1").is_dir()


@pytest.mark.parametrize("kind", ["other items", "other metadata", "empty folder"])
def test_a_foreign_checkpoint_is_refused_and_left_alone(tmp_path, kind):
    if kind == "empty folder":
        (tmp_path / "7").mkdir()
        (tmp_path / "7" / "commit_success.txt").write_text("")
        (tmp_path / "7" / "_CHECKPOINT_METADATA").write_text("{}")
    else:
        item, content = (
            ("about", ocp.args.JsonSave({"epoch": 3}))
            if kind == "other metadata"
            else (
                "params",
                ocp.args.StandardSave({"w": np.ones(3)}),
            )
        )
        with ocp.CheckpointManager(tmp_path) as manager:
            manager.save(7, args=ocp.args.Composite(**{item: content}))
    before = files(tmp_path / "7")
    with pytest.raises(ValueError, match=rf"expected a whole checkpoint of this program.*{tmp_path / '7'}: "):
        restore(tmp_path)
    assert files(tmp_path / "7") == before


def test_another_run_is_refused_and_the_difference_shown(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(ValueError, match=r"got another one: rate was 0\.1 and is 0\.2; take another folder"):
        restore(tmp_path, rate=0.2)
    with pytest.raises(
        ValueError, match=r"data was 4 numbers in 1 arrays of SHA-256 \w+ and is 5 numbers.*extra was None"
    ):
        restore(tmp_path, data={"x": np.arange(5.0)}, extra="new")
    with pytest.raises(ValueError, match="data was"):
        restore(tmp_path, data={"y": np.arange(4.0)})
    assert_state(restore(tmp_path), 1)


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    with (
        Checkpoint(tmp_path, IDENTITY),
        pytest.raises(
            RuntimeError,
            match=f"{tmp_path}: expected no other run in this folder, but process {os.getpid()} is at work",
        ),
    ):
        Checkpoint(tmp_path, IDENTITY)
    assert restore(tmp_path)[0] == 0


HOLD = """
import pathlib, runpy, sys, time
with runpy.run_path(sys.argv[1])["alone"](pathlib.Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_run_holds_its_folder_no_longer(tmp_path):
    command = [sys.executable, "-c", HOLD, lowrank_filter.common.lock.__file__, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=f"process {process.pid} is at work"), alone(tmp_path):
            pass
        process.kill()
    with alone(tmp_path):
        assert (tmp_path / ".running-by").read_text() == str(os.getpid())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "uint32", "bool"])
def test_a_checksum_is_the_same_on_any_devices(monkeypatch, dtype):
    array = jax.random.randint(jax.random.key(0), (7, 3), 0, 100)
    array = array > 50 if dtype == "bool" else array.astype(dtype)
    found = checksum.checksum(array)
    others = (array[::-1], array.reshape(3, 7), array.at[6, 2].set(array[6, 2] == 0))
    assert len({found, *map(checksum.checksum, others)}) == 4
    monkeypatch.setattr(checksum, "concrete", lambda _: False)
    assert checksum.checksum(array) == found


def test_both_packages_have_the_same_files():
    for ours, theirs in (
        (lowrank_filter.common.checkpoint, lowrank_filter.common.checkpoint),
        (lowrank_filter.common.lock, lowrank_filter.common.lock),
    ):
        assert Path(ours.__file__).read_text() == Path(theirs.__file__).read_text()
