"""Importing and running the library changes no global setting and pulls in no heavy package."""

import os
import subprocess
import sys

SCRIPT = """
import sys
import jax
before = dict(jax.config.values)
import lowrank_filter as lf
assert dict(jax.config.values) == before, "import"
import jax.numpy as jnp, optax
net = lambda p, x: x @ p[:, None]
x, y = jnp.ones((2, 3)), jnp.ones(2)
built = lf.laplace_filter(net, lf.Gaussian(1.0), optax.sgd(0.1), rank=1, steps=1)
belief, stream = lf.filter_stream(built, built.init(jnp.zeros(3)), x, y, history="all")
lf.smooth(stream.beliefs, stream.info.site, 0.1)
try:
    lf.update(belief, net, lf.Gaussian(1.0), x, y[:1])
except ValueError:
    pass
else:
    raise AssertionError("no error")
assert dict(jax.config.values) == before, "run"
assert belief.mean.dtype == jnp.float32
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"flax", "dynamax", "tensorflow_probability", "sklearn", "matplotlib"}, loaded
print("unchanged")
"""


def test_in_a_fresh_process():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.stdout.strip() == "unchanged", done.stderr
