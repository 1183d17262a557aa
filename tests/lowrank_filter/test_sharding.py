"""A belief sharded over devices, with JAX's own machinery: the same results, and nothing of the size of D moves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
import sharded

pytestmark = pytest.mark.slow  # a process of its own that compiles for eight devices


@pytest.fixture(scope="module")
def kernels():
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(sharded.__file__))]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.parametrize("kernel", ["predict", "update", "laplace_update", "smooth"])
def test_sharded_is_unsharded(kernels, kernel):
    found = kernels[kernel]
    assert found["difference"] < 100 * jnp.finfo(jnp.float32).eps
    assert found["sharded"]


@pytest.mark.parametrize("kernel", ["predict", "smooth"])
def test_only_small_matrices_move(kernels, kernel):
    assert 0 < kernels[kernel]["moved"] <= sharded.RANK**2


@pytest.mark.parametrize("kernel", ["update", "laplace_update"])
def test_only_activations_move(kernels, kernel):
    """The network's own: one row as wide as a layer for each example and direction; D is a hundred times as much."""
    widest, outputs = max(sharded.SIZES), sharded.SIZES[-1]
    examples = 1 if kernel == "update" else sharded.EXAMPLES
    assert 0 < kernels[kernel]["moved"] <= examples * max(outputs, sharded.RANK + 4) * widest
