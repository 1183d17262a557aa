"""The model's functions called without an outer jit: compiled once for the same shapes."""

import jax
import jax.numpy as jnp
import latent
import numpy as np
import optax
import pytest

import latenttrack as lt

MODEL = lt.build(lt.Config(**latent.SIZES | {"generator_hidden": (), "predictor_hidden": ()}), latent.X, latent.Y)
KEY = jax.random.key(0)
PARAMS = MODEL.init(KEY)
STATE = MODEL.initial_state(PARAMS)
XS, YS, Z = jnp.ones((6, latent.X)), jnp.zeros((6, latent.Y)), jnp.zeros(latent.SIZES["latent_dim"])
THETA = MODEL.generate(PARAMS, Z, STATE)

CALLS = {
    "init": lambda: MODEL.init(KEY),
    "initial_state": lambda: MODEL.initial_state(PARAMS),
    "predict": lambda: MODEL.predict(PARAMS, STATE),
    "generate": lambda: MODEL.generate(PARAMS, Z, STATE),
    "emit": lambda: MODEL.emit(THETA, XS[0]),
    "update": lambda: MODEL.update(PARAMS, STATE, XS[0], YS[0]),
    "model.rollout": lambda: MODEL.rollout(PARAMS, KEY, XS, YS, samples=2),
    "loss": lambda: MODEL.loss(PARAMS, KEY, XS, YS, STATE),
    "rollout": lambda: lt.rollout(MODEL, PARAMS, KEY, XS, YS, samples=2),
    "forecast": lambda: lt.forecast(MODEL, PARAMS, KEY, STATE, XS, samples=2, components=2),
    "fit": lambda: lt.fit(
        *(MODEL, KEY, XS, YS), updates=1, window=2, batch=1, evaluate_every=1, optimizer=optax.sgd(1e-2)
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_compiles_nothing(name):
    seen = []

    def listen(name, *_, **__):
        if name.endswith("backend_compile_duration"):
            seen.append(name)

    first = CALLS[name]()
    jax.monitoring.register_event_duration_secs_listener(listen)
    second = CALLS[name]()
    jax.monitoring.unregister_event_duration_listener(listen)
    assert not seen
    jax.tree.map(np.testing.assert_array_equal, first, second)
