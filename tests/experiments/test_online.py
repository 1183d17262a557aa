"""Streams of single images: predictions come before updates, runs go on, both experiments at their smallest."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.flatten_util import ravel_pytree
from rich.console import Console
from scipy.linalg import block_diag
from suites import fast

import lowrank_filter as lf
from experiments.catalogue import bandit, endless, online_mnist
from experiments.continual.networks import flax, mlp
from experiments.continual.online import comparison, covariance, forgetting, stream
from experiments.continual.online.comparison import METHODS, THOMPSON, Case, Pool
from experiments.continual.online.interface import labels, rewards
from experiments.continual.online.stream import Program, traced
from experiments.data.images import Images
from lowrank_filter.common.checkpoint import Checkpoint

CENTRES = 2 * np.random.default_rng(0).normal(size=(10, 4))


class Small(linen.Module):
    """A body and a head."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(10, name="head")(linen.tanh(linen.Dense(3, name="body")(x)))


NETWORK = flax(Small(), (4,))
CASES = {
    "labels": Case(labels(NETWORK), lambda x: x, online_mnist.step, online_mnist.scores),
    "rewards": Case(rewards(NETWORK), lambda x: (x, np.arange(len(x)) % 10), bandit.step, bandit.scores),
}


def wide(network):
    """Its initial parameters in float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), jax.jit(network.init)(jax.random.key(0)))


def pool(count):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 10, count).astype(np.int32)
    return Pool((CENTRES[y] + rng.normal(size=(count, 4))).astype(np.float32), y)


def following(case, name):
    """What goes through some items in pieces of 20, from the same start."""
    method = METHODS[name]
    settings = traced({THOMPSON: method.draws} | {key: values[-1] for key, values in method.grid.items()})
    program = Program(lambda hyper, *rest: case.step(method.build(case.problem, 2, hyper), hyper, *rest), 20)

    def follow(items, folder):
        start, seen = jax.jit(NETWORK.init)(jax.random.key(0)), case.seen(items["x"][:20])
        state = method.build(case.problem, 2, settings).init(start, seen)
        return program.follow(settings, state, items, folder, {})

    return follow


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("labels", "lofi_stream"),
        ("rewards", "adamw"),
        pytest.param("rewards", "hilofi", marks=pytest.mark.slow),
        pytest.param("labels", "filter_default", marks=pytest.mark.slow),
        pytest.param("rewards", "filter_dense_head", marks=pytest.mark.slow),
    ],
)
def test_no_answer_knows_its_own_label(kind, name, tmp_path):
    """Other labels from step 30 on: the same answers up to there, and to 30 too, so not right of both labels."""
    items, follow = pool(100).stream(0, 100), following(CASES[kind], name)
    others = items | {"y": items["y"].at[30:].set((items["y"][30:] + 1) % 10)}
    one, two = (follow(items, tmp_path / "one")["value"], follow(others, tmp_path / "two")["value"])
    np.testing.assert_array_equal(one[:30], two[:30])
    assert not one[30] & two[30] and (one[30:] != two[30:]).any()


def test_a_run_that_is_cut_off_goes_on(tmp_path, monkeypatch):
    class StoppedError(Exception):
        pass

    def stop(self, position, state):
        save(self, position, state)
        if position == 40:
            raise StoppedError

    items, follow, save = pool(80).stream(0, 80), following(CASES["labels"], "adamw"), Checkpoint.save
    monkeypatch.setattr(stream, "_EVERY", 0.0)
    whole = follow(items, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", stop)
        with pytest.raises(StoppedError):
            follow(items, tmp_path / "cut")
    again = follow(items, tmp_path / "cut")
    np.testing.assert_array_equal(again["value"], whole["value"])
    assert len(again["seconds"]) == 4


@pytest.mark.parametrize("module", fast([online_mnist, bandit], bandit))
def test_the_experiment(module, tmp_path, monkeypatch):
    train, test = pool(80), pool(40)
    monkeypatch.setattr(module, "mnist", lambda: Images(*train, *test))
    monkeypatch.setattr(module, "lenet", lambda outputs: NETWORK)
    monkeypatch.setattr(comparison, "OURS", ("lrkf",))
    kind = online_mnist.OnlineMnist if module is online_mnist else bandit.Bandit
    options: dict[str, Any] = {"seeds": 2, "steps": 80, "search": 40, "ranks": (2,), "output": tmp_path}
    kind(**options, methods=("lrkf", "adamw")).run(Console(quiet=True))
    (folder,) = tmp_path.iterdir()
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert "LRKF, rank 2: " in page and "it does not say whether those are reached" in page
    assert set(content["chosen"]["adamw"]) == {"learning_rate", "inner"} and list(folder.glob("*.png"))
    if kind is bandit.Bandit:
        found = content["variants"]
        assert set(found["thompson"]["methods"]) == {"lrkf_2"} < set(found["epsilon"]["methods"])
        found = found["epsilon"]
    else:
        found = content
    for name in ("lrkf_2", "adamw"):
        curve = np.mean(content["curves"]["epsilon" if kind is bandit.Bandit else ""][name], axis=1)
        scores = found["methods"][name]
        expected = scores["whole" if kind is online_mnist.OnlineMnist else "reward"]["per_seed"]
        np.testing.assert_allclose(curve * (80 if kind is bandit.Bandit else 1), expected, atol=0.01)
    with pytest.raises(ValueError, match="methods: expected names of filter_default"):
        kind(**options, methods=("sgd",)).run(Console(quiet=True))
    with pytest.raises(ValueError, match="steps, search: expected at most 80 and 40, got 90 and 40"):
        dataclasses.replace(kind(**options), steps=90).run(Console(quiet=True))


@pytest.mark.parametrize("ranks", [(55,), (15, None)])
def test_whole_covariances_are_those_of_the_extended_kalman_filter(ranks):
    """The EKF of the class probabilities in Joseph's form, in parts whose covariances with each other are left out."""
    with jax.enable_x64(True):
        online = covariance.filtered(CASES["labels"].problem, ranks, {"process_noise": 0.0, "epsilon": 0.1})
        start = wide(NETWORK)
        flat, unravel = ravel_pytree(start)
        x, y = pool(6)
        belief, update = online.init(start, x), jax.jit(online.update)
        mean, spread = np.asarray(flat), np.eye(55)
        apart: Any = block_diag(np.ones((15, 15)), np.ones((40, 40))) if None in ranks else np.ones((55, 55))

        def probabilities(flat, image):
            return jax.nn.softmax(NETWORK.apply(unravel(flat), image)[0])

        both = jax.jit(lambda *at: (probabilities(*at), jax.jacobian(probabilities)(*at)))
        for image, label in zip(x.astype(float)[:, None], y, strict=True):
            p, rows = map(np.asarray, both(mean, image))
            noise = np.diag(p) - np.outer(p, p) + 0.1 * np.eye(10)
            gain = spread @ rows.T @ np.linalg.inv(rows @ spread @ rows.T + noise)
            mean = mean + gain @ (np.eye(10)[label] - p)
            left = np.eye(55) - apart * (gain @ rows)
            spread = left @ spread @ left.T + apart * (gain @ noise @ gain.T)
            belief, _ = update(belief, image, jnp.array([label]))
        np.testing.assert_allclose(np.concatenate([np.asarray(part) for part in belief.means]), mean, rtol=1e-9)
        found: Any = [w if rank is None else w.T @ w for rank, w in zip(ranks, belief.spreads, strict=True)]
        np.testing.assert_allclose(np.asarray(block_diag(*found)), spread, atol=1e-9)


SHUFFLED = endless.Shuffles(*map(jnp.asarray, pool(60)), *map(jnp.asarray, pool(30)), tasks=7, train=10, batch=2)
ENDLESS = Case(
    labels(mlp(4, (3,), 10)), lambda x: x, endless.step, endless.scores, endless.last_five, ("tested", "end")
)


def endlessly(name, items, shared, folder):
    method = forgetting.METHODS[name]
    settings = traced({key: values[-1] for key, values in method.grid.items()})
    program = Program(lambda hyper, *rest: endless.step(method.build(ENDLESS.problem, 2, hyper), hyper, *rest), 5)
    built = method.build(ENDLESS.problem, 2, settings | shared)
    state = built.init(ENDLESS.problem.network.init(jax.random.key(0)), SHUFFLED.x)
    return program.follow(settings | shared, state, items, folder, {})


@pytest.mark.parametrize("name", fast(forgetting.METHODS, "online_ewc"))
def test_an_endless_stream_is_predicted_first_and_tested_at_ends(name, tmp_path):
    """Other labels in the images of the last task: nothing before it changes. Tests do."""
    items, shared = SHUFFLED.stream(0, 35), SHUFFLED.shared(0)
    ends = np.arange(35) % 5 == 4
    np.testing.assert_array_equal(items["end"], ends)
    assert len(np.unique(items["rows"][:5])) == 10  # one epoch: no image twice in a task
    kept = endlessly(name, items, shared, tmp_path / "one")
    assert not kept["tested"][~ends].any() and not kept["diverged"].any()
    assert np.isfinite(kept["tested"]).all() and not kept["tested"][4, 1:].any()
    y = shared["y"].at[items["rows"][30:]].set((shared["y"][items["rows"][30:]] + 1) % 10)
    same = np.isin(np.asarray(items["rows"]), np.asarray(items["rows"][30:])).any(axis=1).argmax()
    others = endlessly(name, items, shared | {"y": y}, tmp_path / "two")
    np.testing.assert_array_equal(kept["value"][:same], others["value"][:same])
    assert (kept["value"] != others["value"]).any()
    found = endless.scores(kept)
    assert found["accuracy"] == kept["tested"][-1].mean() and found["current"] == kept["tested"][ends, 0].mean()


def test_what_is_remembered_fades(tmp_path):
    """A batch's precision is 1/e of what it was after ``memory`` batches, and without data the prior comes back."""
    with jax.enable_x64(True):
        online = forgetting.returning(
            ENDLESS.problem, lf.LowRank(2), traced({"variance": 1.0, "memory": 4.0, "unit": 5.0})
        )
        params = wide(ENDLESS.problem.network)
        (prior, center, noise) = jax.jit(online.init)(params, np.asarray(SHUFFLED.x, float))
        start = prior._replace(mean=jax.tree.map(lambda leaf: np.asarray(leaf) + 1.0, prior.mean))
        fading = jnp.exp(-0.5 / 20)

        def ahead(belief, _):
            return lf.predict(belief, noise, fading, center), None

        after, _ = jax.jit(lambda belief: jax.lax.scan(ahead, belief, None, length=20))(start)
        apart = jax.tree.map(np.subtract, *jax.device_get((after.mean, center)))
        jax.tree.map(lambda leaf: np.testing.assert_allclose(leaf, np.exp(-0.5), rtol=1e-6), apart)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.precision.diag, prior.precision.diag
        )


@pytest.mark.parametrize("structure", [lf.KroneckerFactored(), lf.Diagonal()])
def test_a_belief_fades_into_the_prior(structure):
    with jax.enable_x64(True):
        params = wide(ENDLESS.problem.network)
        x, y = np.asarray(SHUFFLED.x, float), SHUFFLED.y
        flat, unravel = ravel_pytree(params)
        flat = np.asarray(flat)

        def dense(belief):
            columns = jax.vmap(lambda e: ravel_pytree(belief.precision.matvec(unravel(e)))[0])
            return columns(jnp.eye(len(flat)))

        @jax.jit
        def run(params):
            prior = lf.init(params, 2.0, structure=structure)
            there = jax.tree.map(lambda leaf: leaf + 1.0, params)
            belief, _ = lf.laplace_update(prior, there, ENDLESS.problem.network.apply, lf.Categorical(), x, y)
            found = forgetting.faded(belief, prior, 0.8)
            return dense(belief), dense(found), ravel_pytree(found.mean)[0]

        before, after, mean = map(np.asarray, run(params))
        expected = 0.8 * before + 0.2 * 2.0 * np.eye(len(flat))
        np.testing.assert_allclose(after, expected, rtol=1e-9, atol=1e-9)
        moved = flat + np.linalg.solve(expected, 0.8 * before @ np.ones(len(flat)))
        np.testing.assert_allclose(mean, moved, rtol=1e-9, atol=1e-9)


def test_the_endless_experiment(tmp_path, monkeypatch):
    monkeypatch.setattr(endless, "mnist", lambda: Images(*pool(100), *pool(40)))
    monkeypatch.setattr(comparison, "OURS", ("online_ewc",))
    options: dict[str, Any] = {"tasks": 6, "train": 10, "batch": 5, "test": 20, "tuned_on": 2, "hidden": 3}
    options |= {"methods": ("online_ewc", "adamw"), "output": tmp_path}
    endless.Endless(**options).run(Console(quiet=True))
    content = json.loads((tmp_path / "endless" / "results.json").read_text(encoding="utf-8"))
    page = (tmp_path / "endless" / "README.md").read_text(encoding="utf-8")
    assert "Online EWC, each batch a task: " in page and "it does not say whether those are reached" in page
    assert "Not run here: Low-rank filter, " in page and list((tmp_path / "endless").glob("*.png"))
    assert set(content["chosen"]["online_ewc"]) == {"learning_rate", "strength", "memory"}
    with pytest.raises(ValueError, match="methods: expected names of endless_low_rank"):
        dataclasses.replace(endless.Endless(**options), methods=("sgd",)).run(Console(quiet=True))
    with pytest.raises(ValueError, match="batch, train, test: expected at most train, 80 and 20, got 5, 10 and 30"):
        dataclasses.replace(endless.Endless(**options), test=30).run(Console(quiet=True))
