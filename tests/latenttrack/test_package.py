"""Importing and running the library changes no global setting and needs the core dependencies only."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import jax
before = dict(jax.config.values)
import latenttrack as lt
assert dict(jax.config.values) == before, "import"
import jax.numpy as jnp
model = lt.build(lt.Config(latent_dim=2, hidden_dim=3), 1, 1)
x = jnp.ones((30, 1))
fit = lt.fit(model, jax.random.key(0), x, x, updates=1, evaluate_every=1, window=8, batch=2)
lt.metrics.summary(model.rollout(fit.params, jax.random.key(0), x, x, samples=2)[1], x)
assert dict(jax.config.values) == before, "run"
loaded = {name.partition(".")[0] for name in sys.modules}
heavy = {"dynamax", "tensorflow_probability", "sklearn", "matplotlib", "orbax", "pandas"}
assert not loaded & heavy, loaded & heavy
print("unchanged")
"""


@pytest.mark.slow  # lowrank_filter's is fast; this one compiles a training
def test_in_a_fresh_process():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.stdout.strip() == "unchanged", done.stderr
