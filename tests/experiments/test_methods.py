"""Methods through the one interface: compiled once, chosen on validation images, taken up where they stopped."""

from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import methods
from experiments.data import digits
from experiments.methods import Learner, Method, Training, filtering, follow
from experiments.networks import mlp
from experiments.structures import FORMS, Structure
from experiments.tasks import Tasks, rotated
from experiments.tuning import tune
from experiments.unfinished import Unfinished

NETWORK = mlp(64, (8,), 10)
TRAINING = Training(40, None, 30)
FIXED = {"learning_rate": (1e-2,), "prior": (1.0,)}


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    return rotated(*digits.load(), [0, 90], train=100, val=50, test=100, seeds=[0, 1])


def run(method: Method, tasks: Tasks, folder: Path, count: list | None = None) -> dict:
    advance = (lambda: None) if count is None else (lambda: count.append(1))
    return tune(method, NETWORK, TRAINING, tasks, [0, 1], advance=advance, unfinished=Unfinished(folder, {}))


def test_baselines_learn_and_only_the_anchor_holds_on(tasks: Tasks, tmp_path: Path) -> None:
    rates = {"learning_rate": (1e-2,)}
    sequential = run(Method({"a": "last", "own": "own"}, rates, follow(methods.sequential)), tasks, tmp_path)
    anchor = run(Method({"a": "last"}, FIXED | {"strength": (100.0,)}, follow(methods.anchor)), tasks, tmp_path)["a"]
    alone = run(Method({"a": "own"}, rates, follow(methods.alone)), tasks, tmp_path)["a"]
    joint = run(Method({"a": "joint"}, rates, methods.joint), tasks, tmp_path)["a"]
    first = [float(result.accuracy[:, 0].mean()) for result in (sequential["a"], anchor, alone, joint)]
    assert first[0] < first[1] < first[3] and first[2] > 0.6
    np.testing.assert_array_equal(sequential["own"].accuracy, np.diagonal(sequential["a"].matrix, axis1=1, axis2=2))
    assert sequential["a"].start.shape == (2, 2) and (sequential["a"].start < 0.3).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_filter_of_any_structure_retains_more_than_training(form, tasks: Tasks, tmp_path: Path) -> None:
    hyper = FIXED | {"noise": (0.0,), "curvature": (10.0,)}
    learner = filtering(Structure(form, 4))
    found = run(Method({"last": "last", "smoothed": "smoothed"}, hyper, follow(learner)), tasks, tmp_path)
    matrix = found["last"].matrix
    retained, learned = matrix[:, 1].mean(axis=0)
    assert retained > 0.55 and learned > 0.35
    # Without noise the parameters never change, so what is known at the end was so all along.
    np.testing.assert_allclose(found["smoothed"].accuracy, found["last"].accuracy, atol=0.02)


def test_a_task_that_is_missing_is_never_seen(tasks: Tasks, tmp_path: Path) -> None:
    hyper = FIXED | {"noise": (0.0,), "curvature": (10.0,)}
    method = Method({"own": "own"}, hyper, follow(filtering(Structure("network", 2)), missing=1))
    poisoned = tasks._replace(train_x=tasks.train_x.copy())
    poisoned.train_x[:, 1] = np.nan
    found = run(method, poisoned, tmp_path)["own"]
    np.testing.assert_array_equal(found.matrix[:, 0], found.matrix[:, 1])


def test_an_interrupted_grid_goes_on_where_it_stopped(tasks: Tasks, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop() -> None:
        raise StoppedError

    method = Method({"a": "last"}, {"learning_rate": (1e-4, 1e-2)}, follow(methods.sequential))
    arguments = (method, NETWORK, TRAINING, tasks, [0, 1])
    with pytest.raises(StoppedError):
        tune(*arguments, advance=stop, unfinished=Unfinished(tmp_path, {}))
    (kept,) = tmp_path.iterdir()
    time = kept.stat().st_mtime_ns
    whole = run(method, tasks, tmp_path)["a"]
    assert kept.stat().st_mtime_ns == time and len(list(tmp_path.iterdir())) == 2
    again = run(method, tasks, tmp_path)["a"]
    np.testing.assert_array_equal(again.accuracy, whole.accuracy)
    assert whole.chosen == {"learning_rate": 1e-2}
    unfinished = Unfinished(tmp_path, {})
    unfinished.clear()
    assert not tmp_path.exists()


def test_a_learner_of_ones_own(tasks: Tasks, tmp_path: Path) -> None:
    never = Learner(lambda start, _: start, lambda network, training, state, task, hyper: (state, methods.Kept(state)))
    found = run(Method({"never": "last"}, {"unused": (1.0,)}, follow(never)), tasks, tmp_path)["never"]
    np.testing.assert_array_equal(found.accuracy, found.start)
    assert jax.tree.structure(found.chosen) == jax.tree.structure({"unused": 1.0})
