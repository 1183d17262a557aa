"""A stream that changes under a model: what it meets, its scores around the change, and what the page says of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.catalogue.shift_streams import BANDS, ShiftStreams, drawn, summarised
from experiments.data.series import Series
from experiments.run.report import Table
from experiments.streaming import changes, protocol
from experiments.streaming.changes import BEFORE, CHANGES, Setting
from experiments.streaming.models import parts
from latenttrack import Outputs

ROWS, TIMES = 2000, 3


@pytest.fixture(scope="module")
def met():
    """Two columns of eight-hour rows, so that half a year is 548 of them."""
    rng = np.random.default_rng(0)
    time = np.datetime64("2020-01-01", "s") + np.arange(ROWS) * np.timedelta64(8 * 3600, "s")
    values = np.stack([np.sin(np.arange(ROWS) / 4), np.cumsum(rng.normal(size=ROWS))], axis=1).astype(np.float32)
    given = Series(values, time, ("a", "b"))
    spans = protocol.Spans(time[600], time[700])
    return given, *changes.course(given, Setting("a", 3, spans, "b", "a"), TIMES)


def rows_of(apart):
    return 600 + 548 + apart * np.arange(TIMES)


def test_what_a_model_meets_at_each_change(met):
    given, stream, course, apart = met
    xs, ys = (
        {change: part.reshape(TIMES, changes.AFTER, -1) for change, part in zip(CHANGES, leaf, strict=True)}
        for leaf in course.after
    )
    unit, values = stream.unit * stream.scale, given.values[:, 0].astype(float)
    assert [len(course.base[0]) * changes.PIECE, course.base[1].shape[-1]] == [course.at[-1] * changes.PIECE, 1]
    np.testing.assert_array_equal(
        course.base[0][-1], stream.test.xs[rows_of(apart)[-1] - 700 - changes.PIECE :][: changes.PIECE]
    )
    for place, row in enumerate(rows_of(apart)):
        here = slice(row - 700, row - 700 + changes.AFTER)
        np.testing.assert_array_equal(xs["unchanged"][place], stream.test.xs[here])
        np.testing.assert_array_equal(ys["unchanged"][place], stream.test.ys[here])
        for change in CHANGES:  # nothing is known of it before, the calendar goes on
            np.testing.assert_allclose(xs[change][place][0], xs["unchanged"][place][0], atol=1e-5)
            np.testing.assert_array_equal(xs[change][place][:, 2:], xs["unchanged"][place][:, 2:])
        moved = (ys["offset"] - ys["unchanged"])[place, :, 0] * unit
        assert moved[0] == pytest.approx(values[:600].std(), rel=1e-4) and abs(moved[1:]).max() < 1e-4
        level = (xs["offset"] - xs["unchanged"])[place, :, 0]
        np.testing.assert_allclose(level, np.arange(len(level)) > 0, atol=1e-4)  # in training deviations
        later = slice(1, None)
        np.testing.assert_allclose(ys["gain"][place][later], 1.5 * ys["unchanged"][place][later], atol=1e-4)
        old = np.diff(values)[row - 548 : row - 548 + changes.AFTER - 1] / unit
        np.testing.assert_allclose(ys["season"][place, later, 0], old, atol=1e-3)
        other = np.diff(given.values[:, 1].astype(float))[row : row + changes.AFTER - 1] / unit
        np.testing.assert_allclose(ys["station"][place, later, 0], other, rtol=1e-3, atol=1e-3)


def smoothed(params, key, xs, ys, state=None, samples=1, mask=None):
    """y ~ N(mean of what came, 1), the older the less."""

    def body(mean, y):
        return params * mean + (1 - params) * y, -jnp.sum((y - mean) ** 2) / 2

    state, score = jax.lax.scan(body, jnp.zeros(1) if state is None else state, ys)
    return state, Outputs(ys[:, None], ys[:, None], score)


SMOOTHED = parts.StreamFunctions(lambda key: 0.9, lambda params: jnp.zeros(1), smoothed, smoothed)


def test_each_change_starts_from_the_state_that_the_stream_leads_to(met):
    _, stream, course, apart = met
    keys, params = jax.vmap(jax.random.key)(jnp.arange(2)), jnp.asarray([0.9, 0.99])
    found = changes.nll(SMOOTHED, 1, params, keys, course)
    assert found.shape == (2, len(CHANGES), TIMES, BEFORE + changes.AFTER)
    whole = [np.concatenate([stream.validation[i], stream.test[i]]) for i in (0, 1)]
    _, outputs = SMOOTHED.rollout(params[1], keys[1], *map(jnp.asarray, whole))
    for place, row in enumerate(rows_of(apart)):
        part = slice(row - 600 - BEFORE, row - 600 + changes.AFTER)
        np.testing.assert_allclose(found[1, 0, place], -outputs.log_prob[part], rtol=2e-3, atol=2e-3)


def test_too_many_changes_are_refused(met):
    given, *_ = met
    setting = Setting("a", 3, protocol.Spans(given.time[600], given.time[700]), "b", "a")
    with pytest.raises(ValueError, match="apart, got 60 times; ask for fewer"):
        changes.course(given, setting, 60)


def test_the_page_says_who_is_ahead_and_what_is_left():
    rng = np.random.default_rng(0)
    size = (3, len(CHANGES), 12, BEFORE + changes.AFTER)
    nll = {name: 0.01 * rng.normal(size=size) for name in ("lt_structured", "lt_adapted", "vrnn")}
    offset = list(CHANGES).index("offset")
    nll["lt_structured"][:, offset, :, BEFORE:] += 1
    nll["lt_adapted"][:, offset, :, BANDS["first 24"]] += 1
    nll["vrnn"][0, offset, 0, -1] = np.inf
    found = summarised("ett", nll, 200)
    parts = ShiftStreams.tables({"variants": found})
    said, table = parts["ett, offset-said"], parts["ett, offset"]
    assert isinstance(said, str) and isinstance(table, Table)
    assert "From step 168 on, by two errors of the difference, LatentTrack, adapted by a filter is ahead of" in said
    assert "as on the unchanged stream: LatentTrack, adapted" in said
    assert "worse than on it: LatentTrack, structured (+1.0" in said and "VRNN (" not in said
    assert table.rows[-1][0] == "VRNN" and table.rows[-1][-1] == "not finite"
    one = found["ett, offset"]["models"]["lt_structured"]["first 24"]
    assert one["mean"] == pytest.approx(1, abs=0.01) and 0 < one["error"] < 0.01 and len(one["per_seed"]) == 3
    assert drawn("ett", {f"ett/{name}": values.mean(0) for name, values in nll.items() if name != "vrnn"}).axes
