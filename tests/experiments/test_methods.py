"""Methods through the one interface: compiled once, chosen on validation images, taken up where they stopped."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import lowrank_filter as lf
from experiments import methods
from experiments.data import digits
from experiments.continual.learners import Learner, Method, Training, filtering, follow
from experiments.continual.networks import flat, mlp, resnet, vit
from experiments.continual.structures import FORMS, Structure
from experiments.continual.tasks import Tasks, rotated
from experiments.continual.evaluation import tune
from experiments.run.cache import Cache

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


def test_lofi_is_one_pass_of_the_linearised_filter_over_one_task_after_the_other(tasks: Tasks, tmp_path: Path) -> None:
    learner = methods.streaming(rank=4, chunk_size=10)
    found = run(Method({"a": "last"}, {"prior": (10.0,)}, follow(learner)), tasks, tmp_path)["a"]
    learned = np.diagonal(found.matrix, axis1=1, axis2=2).mean(axis=0) - found.start.mean(axis=0)
    assert (learned > 0.15).all()
    network, _ = flat(NETWORK)
    belief = lf.init(network.init(jax.random.key(0)), 10.0, rank=4)
    stream = lf.extended_filter(network.apply, lf.Categorical(), rank=4, process_noise=0.0)
    whole = [np.concatenate(part) for part in (tasks.train_x[0], tasks.train_y[0])]
    last, _ = lf.filter_stream(stream, belief, *whole, chunk_size=10)
    task = methods.Task(tasks.train_x[0, 0], tasks.train_y[0, 0], jax.random.key(1), np.asarray(True))
    state = learner.init(belief.mean, {"prior": 10.0})
    for number in range(2):
        task = task._replace(x=tasks.train_x[0, number], y=tasks.train_y[0, number])
        state, kept = learner.step(network, TRAINING, state, task, {"prior": 10.0})
    np.testing.assert_allclose(kept.params, last.mean, atol=1e-5)


def test_around_a_task_that_is_missing_its_neighbours_are_averaged() -> None:
    counting = Learner(lambda start, _: 0.0, lambda network, training, t, task, hyper: (t + 1, methods.Kept(t * 1.0)))
    empty = methods.Sequence(0.0, np.zeros((5, 1, 1)), np.zeros((5, 1), int), jax.random.key(0))
    network = NETWORK._replace(init=lambda key: jax.numpy.zeros(1))
    models = follow(counting._replace(per_layer=True), missing=2)(network, TRAINING, empty, {})
    np.testing.assert_array_equal(models["neighbours"].used, [2.0] * 5)


@pytest.mark.slow
def test_whitened_steps_end_where_the_others_do(tasks: Tasks) -> None:
    belief = lf.kronecker_init(NETWORK.init(jax.random.key(0)), 1.0)
    task = methods.Task(tasks.train_x[0, 0], tasks.train_y[0, 0], jax.random.key(1), np.asarray(True))
    belief, _ = lf.laplace_update(belief, belief.mean, NETWORK.apply, lf.Categorical(), task.x, task.y)
    hyper = {"learning_rate": 3e-2}

    def reached(whitened: bool) -> float:
        training = Training(400, None, None, decay=True, whitened=whitened)
        params = methods.fitted(NETWORK, training, belief, task, hyper)
        loss = jax.vmap(lf.Categorical().nll)(NETWORK.apply(params, task.x), task.y).sum()
        return float(loss + lf.penalty(belief, params))

    assert reached(True) == pytest.approx(reached(False), rel=0.02)
    few = Training(20, 50, None, decay=True, whitened=True)
    whitened, turned = (fit(NETWORK, few, belief, task, hyper) for fit in (methods.fitted, methods.turned))
    # Not bit for bit: where a gradient is zero, Adam makes steps of what is only rounding.
    np.testing.assert_allclose(NETWORK.apply(turned, task.x), NETWORK.apply(whitened, task.x), atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("network", [resnet(8, 3, channels=4, blocks=1), vit(8, 3, patch=4, width=4, blocks=1)])
@pytest.mark.parametrize("form", FORMS)
def test_a_filter_of_any_structure_takes_networks_that_are_no_perceptrons(form, network) -> None:
    params = network.init(jax.random.key(0))
    x, y = jax.random.uniform(jax.random.key(1), (12, 64)), np.arange(12) % 3
    task, learner = methods.Task(x, y, jax.random.key(2), np.asarray(True)), filtering(Structure(form, 2))
    hyper = {"learning_rate": 1e-2, "prior": 1.0, "curvature": 1.0, "noise": 0.1}
    step = jax.jit(lambda state: learner.step(network, Training(3, None, None), state, task, hyper)[0])
    belief = step(step(learner.init(params, hyper)))
    without = lf.predict(lf.predict(learner.init(params, hyper), 0.1), 0.1)
    assert np.isfinite(lf.logdet(belief.precision)) and lf.logdet(belief.precision) > lf.logdet(without.precision)


@pytest.mark.slow
def test_the_method_of_ones_own_in_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def step(network" in block)
    assert len(code.splitlines()) < 30
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    written = json.loads((tmp_path / "results" / "decaying" / "results.json").read_text(encoding="utf-8"))
    assert written["methods"]["decaying"]["accuracy"]["mean"] > 0.6
