"""A filter over an iterator: uneven batches in one compilation, stopped and resumed, watched, wrong calls."""

import collections
import importlib.util
import re
import signal
import sys

import calls
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs

import lowrank_filter as lf
from lowrank_filter.drivers import run_stream as module

RNG = np.random.default_rng(0)
SIZES = [3, 5, 1, 0, 5, 2, 4]
SPLIT = np.cumsum(SIZES)[:-1]
X = RNG.normal(size=(sum(SIZES), 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)
BATCHES = list(zip(np.split(X, SPLIT), np.split(Y, SPLIT), strict=True))
FILTER = lf.extended_filter(runs.net, lf.Categorical(), rank=2, process_noise=1e-3, iterations=0)


def run(batches=BATCHES, **options):
    return lf.run_stream(FILTER, runs.start(), batches, **{"pad_to": 5, "progress": False, **options})


@pytest.fixture(scope="module")
def whole():
    return run()


def same(a, b):
    return runs.digest(a) == runs.digest(b)


def test_padding_changes_nothing():
    """Batches by the plain kernels, each at its own size; the empty one is a prediction alone."""
    batches = [BATCHES[0], BATCHES[3], BATCHES[0]]
    predict = jax.jit(lambda belief: lf.predict(belief, 1e-3))
    plain = {"iterations": 0}
    update = jax.jit(lambda belief, x, y: lf.update(belief, runs.net, lf.Categorical(), x, y, **plain)[0])
    belief = runs.start()
    for x, y in batches:
        belief = predict(belief)
        belief = update(belief, x, y) if len(y) else belief
    found, kept = run(batches)
    for came, expected in zip(jax.tree.leaves(found.mean), jax.tree.leaves(belief.mean), strict=True):
        np.testing.assert_allclose(came, expected, atol=2e-5)
    assert kept.info.loss.shape == (3,) and kept.info.loss[1] == 0
    assert kept.means is None and kept.info.site is None


def test_predictions_are_kept_where_they_have_one_size(whole):
    assert whole[1].info.outputs.shape == (len(SIZES), 5, 2)
    seen = []
    _, kept = run(BATCHES[:2], pad_to=None, callback=lambda done, belief, info: seen.append(info.outputs.shape))
    assert kept.info.outputs is None and seen == [(3, 2), (5, 2)]


def test_one_compilation():
    traces = collections.deque()  # a list would be another one after each trace, and its network another function

    def net(params, x):
        traces.append(len(x))
        return runs.net(params, x)

    built = lf.extended_filter(net, lf.Categorical(), rank=2, iterations=0)
    belief, _ = lf.run_stream(built, runs.start(), BATCHES[:1], pad_to=5, progress=False)
    before = len(traces)
    lf.run_stream(built, belief, iter(BATCHES), pad_to=5, progress=False)
    assert len(traces) == before


def test_without_a_size_the_largest_so_far_is_taken(whole):
    belief, kept = run(pad_to=None)
    for came, expected in zip(jax.tree.leaves((belief.mean, kept.info.loss)),
                              jax.tree.leaves((whole[0].mean, whole[1].info.loss)), strict=True):  # fmt: skip
        np.testing.assert_allclose(came, expected, atol=2e-5)


def test_masked_examples_change_nothing(whole):
    spoilt = [
        (np.concatenate([x, np.full((1, 3), np.nan)]), np.append(y, 99), np.append(np.ones(len(y), bool), False))
        for x, y in BATCHES
    ]
    assert same(run(spoilt, pad_to=6), run(pad_to=6))


def test_weights_count_examples(tmp_path, whole):
    """Two is twice, none is not at all, None is one; also where the run is stopped between batches of both kinds."""
    weighted = [(x, y, None, np.resize([2, 0, 1], len(y)) if i % 2 else None) for i, (x, y) in enumerate(BATCHES)]
    spelt = [
        tuple(np.repeat(part, np.ones(len(y), int) if batch[3] is None else batch[3], axis=0) for part in (x, y))
        for (x, y), batch in zip(BATCHES, weighted, strict=True)
    ]
    came, expected = run(weighted, pad_to=6), run(spelt, pad_to=6)
    for a, b in zip(jax.tree.leaves((came[0].mean, came[1].info.log_evidence)),
                    jax.tree.leaves((expected[0].mean, expected[1].info.log_evidence)), strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert not same(came[0].mean, whole[0].mean)
    with pytest.raises(OSError, match="connection"):
        run(interrupted(weighted, 4, failure), pad_to=6, checkpoint=tmp_path)
    assert same(run(weighted, pad_to=6, checkpoint=tmp_path), came)
    other = [(*weighted[0], None)[:3], (*weighted[1][:3], weighted[1][3] + 1), *weighted[2:]]
    with pytest.raises(ValueError, match="expected the 7 batches first that the run in"):
        run(other, pad_to=6, checkpoint=tmp_path)


def test_single_targets_may_be_missing():
    """As in the stream that is in memory."""
    built = lf.extended_filter(runs.net, lf.Gaussian(0.5), rank=2, iterations=0)
    x, y = X[:6], np.where(np.arange(12).reshape(6, 2) % 5, X[:6, :2], np.nan)
    batches = [(x[i : i + 2], y[i : i + 2], np.isfinite(y[i : i + 2])) for i in (0, 2, 4)]
    came, _ = lf.run_stream(built, runs.start(), batches, progress=False)
    expected, _ = lf.filter_stream(built, runs.start(), x, y, mask=np.isfinite(y), chunk_size=2)
    for a, b in zip(jax.tree.leaves(came.mean), jax.tree.leaves(expected.mean), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_dtypes_follow_the_first_batch(whole):
    other = [(x.astype(np.float64), y.astype(np.int32)) if i % 2 else (x, y) for i, (x, y) in enumerate(BATCHES)]
    assert same(run(other), whole)


def interrupted(batches, at, how):
    for index, batch in enumerate(batches):
        if index == at:
            how()
        yield batch


@pytest.fixture
def keyboard():
    """A process in the background starts with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def control_c():
    signal.raise_signal(signal.SIGINT)


def failure():
    raise OSError("the connection was lost")


@pytest.mark.usefixtures("keyboard")
@pytest.mark.parametrize(("how", "error"), [(control_c, KeyboardInterrupt), (failure, OSError)])
@pytest.mark.parametrize("every", [2, 100])
def test_stopped_it_saves_and_goes_on(tmp_path, whole, how, error, every):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(error):
        run(interrupted(BATCHES, 5, how), checkpoint=tmp_path, checkpoint_every=every)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "5").is_dir()
    seen = []
    resumed = run(iter(BATCHES), checkpoint=tmp_path, checkpoint_every=every, callback=lambda n, *_: seen.append(n))
    assert seen == [6, 7]
    assert same(resumed, whole)
    assert same(run(checkpoint=tmp_path, checkpoint_every=every), whole)


@pytest.mark.usefixtures("keyboard")
def test_control_c_waits_for_a_save(tmp_path, monkeypatch, whole):
    """In the middle of writing: what was being written is whole."""
    from lowrank_filter.common import checkpoint  # noqa: PLC0415

    save = checkpoint.Checkpoint.save

    def pressed(self, position, state):
        control_c()
        save(self, position, state)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.Checkpoint, "save", pressed)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint=tmp_path, checkpoint_every=3)
    assert (tmp_path / "3").is_dir()
    assert same(run(checkpoint=tmp_path, checkpoint_every=3), whole)


def test_the_callback_can_stop(whole):
    seen = []

    def callback(done, belief, info):
        seen.append((done, float(info.loss)))
        return done == 3

    _, kept = run(callback=callback)
    assert [done for done, _ in seen] == [1, 2, 3]
    np.testing.assert_array_equal(kept.info.loss, whole[1].info.loss[:3])
    np.testing.assert_array_equal([loss for _, loss in seen], kept.info.loss)


def test_long_runs_gather_their_records(monkeypatch, whole):
    monkeypatch.setattr(module, "_TOGETHER", 3)
    assert same(run(), whole)


def test_other_batches_or_settings_are_refused(tmp_path):
    run(BATCHES[:4], checkpoint=tmp_path)
    with pytest.raises(ValueError, match="expected the 4 batches first that the run in"):
        run([(x + 1, y) for x, y in BATCHES], checkpoint=tmp_path)
    with pytest.raises(ValueError, match="expected the 4 batches first that the run in"):
        run(BATCHES[:2], checkpoint=tmp_path)
    with pytest.raises(ValueError, match="pad_to was 5 and is 6"):
        run(pad_to=6, checkpoint=tmp_path)


def test_what_is_shown(capsys, monkeypatch, whole):
    pytest.importorskip("rich")
    assert same(run(progress=True), whole)
    shown = capsys.readouterr()
    assert "run_stream" in shown.err and "7/7" in shown.err and "loss" in shown.err and not shown.out
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "rich" else find(name))
    monkeypatch.setitem(sys.modules, "rich", None)
    assert same(run(progress=True), whole)
    assert re.fullmatch(r"run_stream: 7 of 7, \d+ s, loss [\d.]+\n", capsys.readouterr().err)


@pytest.mark.slow  # run_stream's own hook, and latenttrack's, are looked at below and in its test_fit
def test_hooks_of_the_other_drivers(tmp_path):
    told = []
    hook = lambda done, values: told.append((done, values))  # noqa: E731
    assert same(runs.stream(None, every=30, progress=hook), runs.stream(None))
    assert [done for done, _ in told] == [30, 60] and [len(info.loss) for _, info in told] == [30, 30]
    told.clear()
    params, values = runs.fit(tmp_path, every=50, progress=hook)
    assert same((params, values), runs.fit(None))
    assert [done for done, _ in told] == [50, 100]
    np.testing.assert_array_equal(np.concatenate([part for _, part in told]), values)
    with pytest.raises(TypeError, match=r"progress: expected a call outside of jax\.jit"):
        jax.jit(lambda x: runs.stream(None, x=x, progress=hook))(runs.X)


CALL = calls.Call(
    lf.run_stream,
    {"filter": FILTER, "belief": runs.start(), "batches": BATCHES, "progress": False},
    {
        "filter": {"text": "ekf", "None": None, "function": lf.update, "class": lf.Filter},
        "belief": {"None": None, "parameters": runs.start().mean, "another rank": lf.init(runs.start().mean, rank=3)},
        "batches": {
            "None": None,
            "number": 3,
            "text": "xy",
            "array": X,
            "nothing": [],
            "no tuples": [X],
            "one part": [(X,)],
            "five parts": [(X, Y, None, None, None)],
            "texts": [("x", "y")],
            "objects": [(object(), Y)],
            "scalars": [(1.0, 1)],
            "lengths that differ": [(X, Y[:2])],
            "mask of another length": [(X, Y, np.ones(3, bool))],
            "mask of fractions": [(X, Y, np.full(len(X), 0.5))],
            "mask of another width": [(X, Y, np.ones((len(X), 2), bool))],
            "weights of another length": [(X, Y, None, np.ones(3))],
            "negative weights": [(X, Y, None, -np.ones(len(X)))],
            "NaN for weights": [(X, Y, None, np.full(len(X), np.nan))],
            "text for weights": [(X, Y, None, "heavy")],
            "more than pad_to": [*BATCHES, (X, Y)],
            "another width later": [*BATCHES, (X[:2, :2], Y[:2])],
            "another tree later": [*BATCHES, ({"a": X[:2]}, Y[:2])],
            "a label too many later": [*BATCHES, (X[:2], Y[:2] + 2)],
            "fractions for labels": [(X, Y + 0.5)],
            "fractions for labels later": [*BATCHES, (X[:2], Y[:2] + 0.5)],
        },
        "pad_to": calls.count(1, optional=True),
        "progress": calls.hook(),
        "checkpoint": calls.folder(),
        "checkpoint_every": calls.count(1),
        "callback": {"text": "print", "number": 1},
    },
)


@pytest.mark.parametrize(("call", "parameter", "wrong"), calls.cases({"run_stream": CALL}))
def test_refused(call, parameter, wrong):
    call = call._replace(good=call.good | ({"pad_to": 5} if parameter == "batches" else {}))
    calls.assert_refused(call, parameter, wrong)


# An update that looks at its examples itself, without the check that built filters have.
OWN = lf.Filter(FILTER.init, FILTER.predict, FILTER.update)
WORDS = {
    "inputs": ((X[:3, :1], Y[:3]), "takes x of shape (3, 1)"),
    "targets": ((X[:3], np.ones((3, 2), int)), "expected shape (3,) for Categorical with 2 outputs, got (3, 2)"),
    "kind of targets": (
        (X[:3], np.ones((3, 2), np.float32)),
        "expected integer labels of shape (3,), got float32 of shape (3, 2)",
    ),
    "mask": ((X[:3], Y[:3], np.ones(4, bool)), "expected a mask of 3 booleans, or one shaped like y"),
}


@pytest.mark.parametrize("built", [FILTER, OWN], ids=["checked", "own"])
@pytest.mark.parametrize("case", WORDS)
def test_messages_are_of_shapes_as_they_came(built, case):
    batch, words = WORDS[case]
    with pytest.raises((TypeError, ValueError)) as caught:
        lf.run_stream(built, runs.start(), [batch], pad_to=77, progress=False)
    assert words in str(caught.value) and "77" not in str(caught.value)


def test_every_parameter_is_refused_somewhere():
    calls.assert_complete({"run_stream": CALL}, {"run_stream": lf.run_stream}, set())


def test_not_within_a_traced_function():
    with pytest.raises(TypeError, match=r"belief: expected a call outside of jax\.jit"):
        jax.jit(lambda belief: lf.run_stream(FILTER, belief, BATCHES, progress=False))(runs.start())


def test_a_laplace_filter_runs_too():
    built = lf.laplace_filter(runs.net, lf.Categorical(), optax.sgd(0.01), steps=2, rank=2)
    belief, kept = lf.run_stream(built, runs.start(), BATCHES[:2], pad_to=5, progress=False)
    assert jnp.all(jnp.isfinite(kept.info.log_evidence)) and belief.precision.rank == 2
