"""Faults in real streams: the filters of both libraries go on, say so, and recover.

Each fault is put into the same hours of the same stream, and the score of the last hours is compared with that of the
stream without it, in nats a step. The streams of all faults run side by side, in one program.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import latenttrack as lt
import lowrank_filter as lf
from experiments.data import mnist, series
from experiments.data.files import FOLDER_VARIABLE
from experiments.streaming import protocol
from experiments.streaming.models import parts

pytestmark = pytest.mark.skipif(not os.environ.get(FOLDER_VARIABLE), reason=f"{FOLDER_VARIABLE} names no data folder")

STEPS, START, STOP = 3000, 1200, 1300
LATER = (2000, 2750)  # hours that every stream reaches
WINDOW = 50  # of the sliding records
TRAINING = 4000
FAULTS = {}
# These never end; what is lost with the channel stays lost.
LASTING = {"constant_channel", "dying_channel"}


def fault(function):
    FAULTS[function.__name__] = function
    return function


# Each takes and returns hours [N], xs [N, x], ys [N, 1] and a mask [N], and says how many steps become invalid.


@fault
def none(hours, xs, ys, mask):
    return hours, xs, ys, mask, 0


@fault
def missing_observations(hours, xs, ys, mask):
    ys[START:STOP], mask[START:STOP] = np.nan, False
    return hours, xs, ys, mask, 0


@fault
def missing_observations_that_nobody_marked(hours, xs, ys, mask):
    ys[START:STOP] = np.nan
    return hours, xs, ys, mask, STOP - START


@fault
def missing_channels(hours, xs, ys, mask):
    rng = np.random.default_rng(0)
    lost = rng.uniform(size=(STOP - START, xs.shape[1])) < 0.3
    xs[START:STOP][lost] = np.nan
    return hours, xs, ys, mask, lost.any(axis=1).sum()


@fault
def infinite_channel(hours, xs, ys, mask):
    xs[START:STOP, 2] = np.inf
    return hours, xs, ys, mask, STOP - START


@fault
def irregular_gaps(hours, xs, ys, mask):
    keep = np.random.default_rng(1).uniform(size=len(xs)) > 0.3
    keep[:START], keep[STOP + 200 :] = True, True
    keep[START : START + 72] = False
    return hours[keep], xs[keep], ys[keep], mask[keep], 0


@fault
def repeated_timestamps(hours, xs, ys, mask):
    rows = np.sort(np.concatenate([np.arange(len(xs)), np.arange(START, STOP), np.arange(START, STOP)]))
    return hours[rows], xs[rows], ys[rows], mask[rows], 0


@fault
def constant_channel(hours, xs, ys, mask):
    xs[:, 4] = 0.5
    return hours, xs, ys, mask, 0


@fault
def dying_channel(hours, xs, ys, mask):
    xs[START:, 4] = xs[START, 4]
    return hours, xs, ys, mask, 0


@fault
def outlier(hours, xs, ys, mask):
    ys[START] += 1e6
    return hours, xs, ys, mask, 0


@fault
def outlying_input(hours, xs, ys, mask):
    xs[START, 1] += 1e6
    return hours, xs, ys, mask, 0


@fault
def many_outliers(hours, xs, ys, mask):
    """One observation in five of a hundred."""
    ys[START:STOP:5] *= -1e6
    return hours, xs, ys, mask, 0


@functools.cache
def jena():
    stream = protocol.jena(series.jena_hourly(), "easy")
    return stream.train.xs, stream.train.ys


def spoiled(name):
    """The hours after those of training."""
    xs, ys = (part[TRAINING : TRAINING + 2 * STEPS].copy() for part in jena())
    *stream, invalid = FAULTS[name](np.arange(len(xs)), xs, ys, np.ones(len(xs), bool))
    return *(part[:STEPS] for part in stream), int(invalid)


def later(hours, values):
    """Their mean over the hours after the fault, the same hours whatever was done to the stream."""
    return np.asarray(values)[(hours >= LATER[0]) & (hours < LATER[1])].mean()


def tolerance(name):
    return 0.05 if name in LASTING else 0.02


def network(params, x):
    return parts.network(params, x)


@functools.cache
def every_fault():
    """All streams, one for each fault in turn: xs, ys and masks."""
    streams = [spoiled(name)[1:4] for name in FAULTS]
    return [jnp.stack(part) for part in zip(*streams, strict=True)]


def only(name, tree):
    """What became of one of them."""
    return jax.tree.map(lambda leaf: leaf[list(FAULTS).index(name)], tree)


@functools.cache
def weights():
    def run(xs, ys, mask):
        start = parts.layers(jax.random.key(0), (xs.shape[1], 12, 1))
        built = lf.extended_filter(
            network, lf.Gaussian(0.5), rank=5, process_noise=1e-6, precision=10.0, outlier_threshold=5.0, health=True
        )
        return lf.filter_stream(built, built.init(start), xs, ys, mask=mask)

    return jax.device_get(jax.jit(jax.vmap(run))(*every_fault()))


@functools.cache
def weights_through(name):
    hours, _, _, mask, invalid = spoiled(name)
    return hours, mask, invalid, *only(name, weights())


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_the_weight_filter_goes_on(name):
    hours, mask, invalid, belief, stream = weights_through(name)
    info = stream.info
    assert finite((belief, info))
    assert all((leaf > 0).all() for leaf in jax.tree.leaves(lf.inverse_diagonal(belief.precision)))
    assert info.invalid.sum() == invalid
    assert (info.invalid[:START] == 0).all()
    sliding = lf.sliding_health(info.health, WINDOW)
    # Where nothing was absorbed the record says so, and knows no innovation.
    counted = np.convolve(mask - np.asarray(info.invalid), np.ones(WINDOW))[:STEPS]
    np.testing.assert_array_equal(sliding.residuals, counted.round())
    # After the fault: as without it, to a fiftieth of a nat a step.
    usual_hours, *_, usual = weights_through("none")
    assert abs(later(hours, info.log_evidence) - later(usual_hours, usual.info.log_evidence)) < tolerance(name)
    assert 0.3 < later(hours, sliding.innovation) < 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["outlier", "many_outliers"])
def test_the_weight_filter_says_which_observations_outlie(name):
    info, usual = weights_through(name)[-1].info, weights_through("none")[-1].info
    outlying = np.arange(START, START + 1 if name == "outlier" else STOP, 5)
    assert (np.asarray(info.discounted)[outlying] > 0.999).all()
    assert (np.asarray(info.health.innovation)[outlying] > 10 * np.mean(usual.health.innovation)).all()
    assert np.mean(usual.discounted) < 0.1


@pytest.mark.slow
def test_the_plain_step_does_not_survive_the_same_outlier_without_a_threshold():
    """What the threshold and the guarded step are for: one observation, and the network is saturated for good."""
    hours, xs, ys, mask, _ = spoiled("outlier")

    @jax.jit
    def run(xs, ys, mask):
        options = {"process_noise": 1e-6, "precision": 10.0, "iterations": 0}
        built = lf.extended_filter(network, lf.Gaussian(0.5), rank=5, **options)
        start = parts.layers(jax.random.key(0), (xs.shape[1], 12, 1))
        return lf.filter_stream(built, built.init(start), xs, ys, mask=mask)[1].info.log_evidence

    usual = weights_through("none")[-1].info.log_evidence
    assert later(hours, run(xs, ys, mask)) < later(hours, usual) - 1


@functools.cache
def latents():
    xs, ys = map(jnp.asarray, jena())
    config = lt.Config(latent_dim=3, hidden_dim=12, encoder_dim=8, generator_hidden=(6,), predictor_hidden=(8,))
    model = lt.build(config, xs.shape[1], 1)
    fitted = lt.fit(
        model, jax.random.key(0), xs[:TRAINING], ys[:TRAINING], updates=60, window=64, batch=8, evaluate_every=60,
        learning_rate=1e-2,
    )  # fmt: skip

    def run(xs, ys, mask):
        return model.rollout(fitted.params, jax.random.key(1), xs, ys, samples=8, mask=mask)

    return jax.jit(jax.vmap(run))(*every_fault())


@functools.cache
def latent_through(name):
    hours, _, ys, mask, invalid = spoiled(name)
    return hours, jnp.asarray(ys), jnp.asarray(mask), invalid, *only(name, latents())


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_the_latent_filter_goes_on(name):
    hours, ys, mask, invalid, state, outputs = latent_through(name)
    assert finite((state, outputs._replace(log_prob=None)))
    assert outputs.invalid.sum() == invalid
    health = lt.metrics.health(outputs, ys, mask, window=WINDOW)
    assert finite(health)
    seen = np.asarray(mask & ~outputs.invalid)
    assert np.isfinite(np.asarray(outputs.log_prob))[seen].all()  # there is no score where there is no y
    np.testing.assert_array_equal(health.observed, np.convolve(seen, np.ones(WINDOW, int))[:STEPS])
    np.testing.assert_array_equal(
        health.invalid, np.convolve(np.asarray(outputs.invalid), np.ones(WINDOW, int))[:STEPS]
    )
    usual_hours, *_, usual = latent_through("none")
    assert abs(later(hours, outputs.log_prob) - later(usual_hours, usual.log_prob)) < tolerance(name)
    assert 0.3 < later(hours, health.innovation) < 3
    if "outlier" in name:
        assert health.innovation[START] > 1e9 / WINDOW
    if "missing_observations" in name:  # nothing seen: the belief about z widens
        assert health.observed[STOP - 1] == 0


@pytest.mark.slow
def test_an_outlier_is_forgotten_by_the_latent_filter_step_by_step():
    """The recurrent cell is bounded: 1e6 standard deviations move it as far as 1e3 do, and it comes back."""
    outputs, usual = latent_through("outlier")[-1], latent_through("none")[-1]
    apart = np.abs(np.asarray(outputs.mean - usual.mean)).mean(axis=(1, 2))
    assert (apart[: START + 1] == 0).all() and apart[START + 1] > 0
    assert apart[START + 200 : START + 300].mean() < 0.1 * apart[START + 1 : START + 4].mean()


CLASSES, SIDE, LABELLED, NEW = 10, 7, 1200, 600


def digits():
    """Handwritten digits at 7×7; nines only from ``NEW`` on."""
    images = mnist.mnist()
    x = images.train_x[:4000].reshape(-1, SIDE, 4, SIDE, 4).mean(axis=(2, 4)).reshape(-1, SIDE * SIDE)
    y = images.train_y[:4000]
    early = np.flatnonzero(y != 9)[:NEW]
    rows = np.concatenate([early, np.arange(early[-1] + 1, early[-1] + 1 + LABELLED - NEW)])
    return x[rows], y[rows].astype(np.int32)


@functools.cache
def classifiers():
    """With the true labels, and with a hundred that are of no class."""
    x, y = digits()
    given = y.copy()
    given[NEW - 100 : NEW] = np.where(np.arange(100) % 2, CLASSES, -1)

    def run(y):
        start = parts.layers(jax.random.key(0), (x.shape[1], 16, CLASSES))
        built = lf.extended_filter(network, lf.Categorical(), rank=10, precision=5.0, process_noise=1e-5, health=True)
        return lf.filter_stream(built, built.init(start), x, y)

    return y, jax.device_get(jax.jit(jax.vmap(run))(jnp.stack([y, given])))


def classified(name):
    y, found = classifiers()
    return y, *jax.tree.map(lambda leaf: leaf[0 if name == "none" else 1], found)


@pytest.mark.slow
def test_a_label_never_seen_is_a_surprise_and_then_known():
    y, belief, stream = classified("none")
    assert finite((belief, stream.info))
    assert stream.info.invalid.sum() == 0
    nines = np.flatnonzero(y == 9)
    loss = np.asarray(stream.info.loss)
    assert nines[0] >= NEW
    assert loss[nines[0]] > 3 * loss[NEW - 200 : NEW].mean()
    assert stream.info.health.innovation[nines[0]] > 3 * stream.info.health.innovation[NEW - 200 : NEW].mean()
    assert loss[nines[-20:]].mean() < 0.4 * loss[nines[0]]
    assert loss[-300:][y[-300:] != 9].mean() < 1  # and the others are still known


@pytest.mark.slow
def test_labels_of_no_class_are_left_out_and_counted():
    _, belief, stream = classified("labels of no class")
    assert finite((belief, stream.info))
    assert stream.info.invalid.sum() == 100 == stream.info.invalid[NEW - 100 : NEW].sum()
    loss, usual = (np.asarray(classified(n)[2].info.loss)[-300:].mean() for n in ("labels of no class", "none"))
    assert abs(loss - usual) < 0.1


def test_the_protocol_takes_gaps_repeated_timestamps_and_channels_without_life():
    """The rows of a station that was moved, switched off, and whose clock was set back."""
    given = series.jena_hourly()
    rows = np.concatenate([np.arange(3000), np.arange(3500, 9000), np.arange(8990, 12000)])
    values, time = given.values[rows].copy(), given.time[rows].copy()
    values[:, 4] = 1.0  # constant throughout
    values[5000:, 5] = np.nan  # died
    values[2000:2100, 0] = np.nan
    spans = protocol.Spans(time[6000], time[9500])
    stream = protocol.prepare(
        series.Series(values, np.sort(time), given.columns), "T (degC)", lag=1, day=24, spans=spans
    )
    for span in (stream.train, stream.validation, stream.test):
        assert np.isfinite(span.xs).all() and np.isfinite(span.ys).all()
    assert stream.train.mask is not None and (~stream.train.mask).sum() == 101
