"""Bad calls: one clear error each, that says what was expected, what came and what to do."""

import jax
import jax.numpy as jnp
import latent
import pytest

import latenttrack as lt

MODEL = lt.build(lt.Config(**latent.SIZES), latent.X, latent.Y)
XS, YS = jnp.zeros((40, latent.X)), jnp.zeros((40, latent.Y))
KEY = jax.random.key(0)


def rollout(xs=XS, ys=YS, **options):
    return MODEL.rollout(MODEL.init(KEY), KEY, xs, ys, **options)


def loss(xs=XS, ys=YS, mask=None):
    params = MODEL.init(KEY)
    return MODEL.loss(params, KEY, xs, ys, MODEL.initial_state(params), mask)


def fit(xs=XS, ys=YS, mask=None, **options):
    return lt.fit(MODEL, KEY, xs, ys, mask, **{"window": 8, "batch": 2, "updates": 2, "evaluate_every": 1, **options})


class Bare:
    init, initial_state, rollout, loss = MODEL.init, MODEL.initial_state, MODEL.rollout, MODEL.loss


CASES = {
    "latent_dim": (lambda: lt.Config(latent_dim=0), ValueError, "latent_dim: expected.*>= 1, got 0"),
    "hidden_dim": (lambda: lt.Config(hidden_dim=2.5), ValueError, "hidden_dim: expected.*integer.*got 2.5"),
    "widths": (lambda: lt.Config(predictor_hidden=16), TypeError, r"predictor_hidden: expected a tuple.*got 16"),
    "width": (lambda: lt.Config(generator_hidden=(4, 0)), ValueError, "generator_hidden: expected.*got 0"),
    "transition": (
        lambda: lt.Config(transition="linear"),
        ValueError,
        "transition: expected one of 'structured', 'unstructured', got 'linear'",
    ),
    "floor": (lambda: lt.Config(variance_floor=-1.0), ValueError, "variance_floor: expected non-negative.*-1.0"),
    "y_dim": (lambda: lt.build(lt.Config(), 3, 0), ValueError, "y_dim: expected.*>= 1, got 0"),
    "rollout: width": (lambda: rollout(xs=XS[:, :2]), ValueError, r"xs: expected shape \(T, 3\), got \(40, 2\)"),
    "rollout: one channel": (lambda: rollout(ys=YS[:, 0]), ValueError, r"ys: .*\(T, 2\), got \(40,\); .*ys\[:, None\]"),
    "rollout: a batch": (lambda: rollout(xs=XS[None]), ValueError, r"xs: expected.*\(1, 40, 3\).*vmap"),
    "rollout: lengths": (lambda: rollout(ys=YS[:7]), ValueError, "same number of time steps.*40.*7.*cut"),
    "rollout: mask": (lambda: rollout(mask=jnp.ones(3, bool)), ValueError, "same number of time steps.*'mask': 3"),
    "rollout: samples": (lambda: rollout(samples=0), ValueError, "samples: expected.*>= 1, got 0"),
    "loss: width": (lambda: loss(ys=XS), ValueError, r"ys: expected shape \(T, 2\), got \(40, 3\)"),
    "loss: mask": (lambda: loss(mask=jnp.ones((40, 2), bool)), ValueError, r"mask: expected.*\(40,\), got \(40, 2\)"),
    "fit: short": (lambda: fit(window=16), ValueError, r"xs: expected at least.*= 48 steps, got 40; take a shorter"),
    "fit: rounds": (lambda: fit(updates=3, evaluate_every=2), ValueError, "updates: expected a multiple.* 2, got 3"),
    "fit: updates": (lambda: fit(updates=0), ValueError, "updates: expected.*>= 1, got 0"),
    "fit: seeds": (lambda: fit(seeds="pmap"), ValueError, "seeds: expected one of.*got 'pmap'"),
    "fit: windows": (lambda: fit(windows="scan"), ValueError, "windows: expected one of.*got 'scan'"),
    "fit: validation": (lambda: fit(validation=(XS, XS)), ValueError, r"ys: expected shape \(T, 2\), got \(40, 3\)"),
    "fit: burn-in": (
        lambda: fit(validation=(XS, YS), burn_in=40),
        ValueError,
        "burn_in: expected fewer than the 40 steps of the validation stream, got 40",
    ),
    "fit: key": (lambda: lt.fit(MODEL, jnp.zeros(2), XS, YS), TypeError, "key: expected a jax.random.key"),
    "forecast: width": (
        lambda: lt.forecast(Bare(), MODEL.init(KEY), KEY, MODEL.initial_state(MODEL.init(KEY)), XS),
        ValueError,
        "y_dim: expected the number of y's channels, got None.*say how many",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_call(name):
    call, kind, message = CASES[name]
    with pytest.raises(kind, match=f"(?s){message}"):
        call()
