"""Methods through the one interface: compiled once, chosen on validation images, taken up where they stopped."""

from pathlib import Path

import jax
import numpy as np
import pytest
from suites import fast

import lowrank_filter as lf
from experiments.continual import learners
from experiments.continual.comparison import tune
from experiments.continual.learners import Learner, Method, Training, filtering, follow
from experiments.continual.networks import flat, mlp, resnet, vit
from experiments.continual.structures import FORMS, Structure
from experiments.continual.tasks import Tasks, rotated
from experiments.data import digits
from experiments.run.cache import Cache

NETWORK = mlp(64, (8,), 10)
TRAINING = Training(40, None, 30)
FIXED = {"learning_rate": (1e-2,), "prior": (1.0,)}


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    return rotated(*digits.load(), [0, 90], train=100, val=50, test=100, seeds=[0, 1])


def run(method: Method, tasks: Tasks, folder: Path) -> dict:
    return tune(method, NETWORK, TRAINING, tasks, [0, 1], Cache(folder, {}))


RATES = {"learning_rate": (1e-2,)}


def anchored(tasks: Tasks, folder: Path):
    """As much of the first task as its anchor keeps."""
    found = run(Method({"a": "last"}, FIXED | {"strength": (100.0,)}, follow(learners.anchor)), tasks, folder)
    return float(found["a"].accuracy[:, 0].mean())


def test_the_anchor_holds_on_where_training_does_not(tasks: Tasks, tmp_path: Path) -> None:
    sequential = run(Method({"a": "last", "own": "own"}, RATES, follow(learners.sequential)), tasks, tmp_path)
    assert float(sequential["a"].accuracy[:, 0].mean()) < anchored(tasks, tmp_path)
    np.testing.assert_array_equal(sequential["own"].accuracy, np.diagonal(sequential["a"].matrix, axis1=1, axis2=2))
    assert sequential["a"].start.shape == (2, 2) and (sequential["a"].start < 0.3).all()


@pytest.mark.slow
def test_alone_and_joint_training_are_bounds(tasks: Tasks, tmp_path: Path) -> None:
    alone = run(Method({"a": "own"}, RATES, follow(learners.alone)), tasks, tmp_path)["a"]
    joint = run(Method({"a": "joint"}, RATES, learners.joint), tasks, tmp_path)["a"]
    first, together = (float(result.accuracy[:, 0].mean()) for result in (alone, joint))
    assert anchored(tasks, tmp_path) < together and first > 0.6


def models_of(method_run, tasks: Tasks, hyper: dict, seed: int = 0) -> dict:
    """What a run makes of one seed's tasks, without what a comparison does around it."""
    start, key = NETWORK.init(jax.random.key(seed)), jax.random.key(seed + 10)
    sequence = learners.Sequence(start, tasks.train_x[seed], tasks.train_y[seed], key)
    return jax.jit(lambda sequence: method_run(NETWORK, TRAINING, sequence, hyper))(sequence)


def accuracy(params, tasks: Tasks, task: int, seed: int = 0) -> float:
    logits = NETWORK.apply(params, tasks.test_x[seed, task])
    return float(np.mean(np.argmax(logits, axis=1) == tasks.test_y[seed, task]))


@pytest.mark.parametrize("form", fast(FORMS, "network"))
def test_a_filter_of_any_structure_retains_more_than_training(form, tasks: Tasks) -> None:
    hyper = {"learning_rate": 1e-2, "prior": 1.0, "noise": 0.0, "curvature": 10.0}
    models = models_of(follow(filtering(Structure(form, 4))), tasks, hyper)
    last = jax.tree.map(lambda leaf: leaf[-1], models["last"].used)
    assert accuracy(last, tasks, 0) > 0.5 and accuracy(last, tasks, 1) > 0.3
    # Without noise the parameters never change, so what is known at the end was so all along.
    for task in range(2):
        smoothed = jax.tree.map(lambda leaf, task=task: leaf[task], models["smoothed"].used)
        assert abs(accuracy(smoothed, tasks, task) - accuracy(last, tasks, task)) <= 0.02


def test_a_task_that_is_missing_is_never_seen(tasks: Tasks) -> None:
    hyper = {"learning_rate": 1e-2, "prior": 1.0, "noise": 0.0, "curvature": 10.0}
    poisoned = tasks._replace(train_x=tasks.train_x.copy())
    poisoned.train_x[:, 1] = np.nan
    after = models_of(follow(filtering(Structure("network", 2)), missing=1), poisoned, hyper)["own"].after
    for leaf in jax.tree.leaves(after):
        assert np.isfinite(leaf).all()
        np.testing.assert_array_equal(leaf[0], leaf[1])


def test_a_learner_of_ones_own(tasks: Tasks, tmp_path: Path) -> None:
    never = Learner(lambda start, _: start, lambda network, training, state, task, hyper: (state, learners.Kept(state)))
    found = run(Method({"never": "last"}, {"unused": (1.0,)}, follow(never)), tasks, tmp_path)["never"]
    np.testing.assert_array_equal(found.accuracy, found.start)
    assert jax.tree.structure(found.chosen) == jax.tree.structure({"unused": 1.0})


def test_methods_with_the_same_run_share_what_it_found(tasks: Tasks, tmp_path: Path) -> None:
    calls = []

    def step(network, training, state, task, hyper):
        jax.debug.callback(lambda: calls.append(1))
        return state, learners.Kept(state)

    steps = follow(Learner(lambda start, _: start, step))
    methods = [Method({"a": "last"}, {"unused": (1.0, 2.0)}, steps), Method({"b": "own"}, {"unused": (2.0,)}, steps)]
    cache, runners, seen = Cache(tmp_path, {}), {}, []
    for method in methods:
        tune(method, NETWORK, TRAINING, tasks, [0, 1], cache, runners=runners, methods=methods)
        jax.effects_barrier()
        seen.append(len(calls))
    assert seen[0] > 0 and seen[1] == seen[0]


@pytest.mark.slow
def test_lofi_is_one_pass_of_the_linearised_filter_over_one_task_after_the_other(tasks: Tasks, tmp_path: Path) -> None:
    learner = learners.lofi(rank=4, chunk_size=10)
    found = run(Method({"a": "last"}, {"prior": (10.0,)}, follow(learner)), tasks, tmp_path)["a"]
    learned = np.diagonal(found.matrix, axis1=1, axis2=2).mean(axis=0) - found.start.mean(axis=0)
    assert (learned > 0.15).all()
    network, _ = flat(NETWORK)
    belief = lf.init(network.init(jax.random.key(0)), 10.0, rank=4)
    stream = lf.extended_filter(network.apply, lf.Categorical(), rank=4, process_noise=0.0)
    whole = [np.concatenate(part) for part in (tasks.train_x[0], tasks.train_y[0])]
    last, _ = lf.filter_stream(stream, belief, *whole, chunk_size=10)
    task = learners.Task(tasks.train_x[0, 0], tasks.train_y[0, 0], jax.random.key(1), np.asarray(True))
    state = learner.init(belief.mean, {"prior": 10.0})
    for number in range(2):
        task = task._replace(x=tasks.train_x[0, number], y=tasks.train_y[0, number])
        state, kept = learner.step(network, TRAINING, state, task, {"prior": 10.0})
    np.testing.assert_allclose(kept.params, last.mean, atol=1e-5)


def test_around_a_task_that_is_missing_its_neighbours_are_averaged() -> None:
    counting = Learner(lambda start, _: 0.0, lambda network, training, t, task, hyper: (t + 1, learners.Kept(t * 1.0)))
    empty = learners.Sequence(0.0, np.zeros((5, 1, 1)), np.zeros((5, 1), int), jax.random.key(0))
    network = NETWORK._replace(init=lambda key: jax.numpy.zeros(1))
    models = follow(counting._replace(per_layer=True), missing=2)(network, TRAINING, empty, {})
    np.testing.assert_array_equal(models["neighbours"].used, [2.0] * 5)


@pytest.mark.slow
def test_whitened_steps_end_where_the_others_do(tasks: Tasks) -> None:
    belief = lf.init(NETWORK.init(jax.random.key(0)), 1.0, structure="kronecker")
    task = learners.Task(tasks.train_x[0, 0], tasks.train_y[0, 0], jax.random.key(1), np.asarray(True))
    belief, _ = lf.laplace_update(belief, belief.mean, NETWORK.apply, lf.Categorical(), task.x, task.y)
    hyper = {"learning_rate": 3e-2}

    def reached(whitened: bool) -> float:
        training = Training(400, None, None, decay=True, whitened=whitened)
        params = learners.fitted(NETWORK, training, belief, task, hyper)
        loss = jax.vmap(lf.Categorical().nll)(NETWORK.apply(params, task.x), task.y).sum()
        return float(loss + lf.penalty(belief, params))

    assert reached(True) == pytest.approx(reached(False), rel=0.02)
    few = Training(20, 50, None, decay=True, whitened=True)
    whitened, turned = (fit(NETWORK, few, belief, task, hyper) for fit in (learners.fitted, learners.turned))
    # Not bit for bit: where a gradient is zero, Adam makes steps of what is only rounding.
    np.testing.assert_allclose(NETWORK.apply(turned, task.x), NETWORK.apply(whitened, task.x), atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("network", [resnet(8, 3, channels=4, blocks=1), vit(8, 3, patch=4, width=4, blocks=1)])
@pytest.mark.parametrize("form", FORMS)
def test_a_filter_of_any_structure_takes_networks_that_are_no_perceptrons(form, network) -> None:
    params = network.init(jax.random.key(0))
    x, y = jax.random.uniform(jax.random.key(1), (12, 64)), np.arange(12) % 3
    task, learner = learners.Task(x, y, jax.random.key(2), np.asarray(True)), filtering(Structure(form, 2))
    hyper = {"learning_rate": 1e-2, "prior": 1.0, "curvature": 1.0, "noise": 0.1}
    step = jax.jit(lambda state: learner.step(network, Training(3, None, None), state, task, hyper)[0])
    belief = step(step(learner.init(params, hyper)))
    without = lf.predict(lf.predict(learner.init(params, hyper), 0.1), 0.1)
    assert np.isfinite(lf.logdet(belief.precision)) and lf.logdet(belief.precision) > lf.logdet(without.precision)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["network", "kronecker"])
def test_task_after_task_is_what_one_program_computes(form, tasks: Tasks, tmp_path: Path) -> None:
    run = follow(filtering(Structure(form, 2)), missing=1)
    grid = FIXED | {"curvature": (10.0,), "noise": (0.01,)}
    reports = {"last": "last", "own": "own", "between": "smoothed"}
    method = Method(reports, grid, run)
    training, network = Training(5, 20, 10, decay=True), mlp(64, (4,), 10)
    apart = network._replace(side_by_side=False)
    together, one_by_one = (
        tune(method, each, training, tasks, [0, 1], Cache(tmp_path / name, {}))
        for name, each in (("together", network), ("apart", apart))
    )
    again = tune(method, apart, training, tasks, [0, 1], Cache(tmp_path / "apart", {}))
    for name in reports:
        for field in ("accuracy", "nll", "matrix", "start", "ece"):
            values = [getattr(found[name], field) for found in (together, one_by_one, again)]
            if values[0] is None:
                assert values == [None] * 3
                continue
            # An answer may turn on rounding.
            np.testing.assert_allclose(values[1], values[0], atol=0.011 if field != "ece" else 0.02)
            np.testing.assert_array_equal(values[2], values[1])
