"""The experiments' command asks for enough threads while it can still be heard."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASKED = 16  # more than any network here has layers: each decomposes its units in one batch, and waits for a thread
COUNT = """
import experiments.__main__, jax, pathlib
jax.block_until_ready(jax.jit(lambda x: x @ x)(jax.numpy.ones((300, 300))))
names = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
print(names.count("tf_XLAEigen"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_threads_are_asked_for_before_an_import_computes():
    environment = {name: value for name, value in os.environ.items() if name != "NPROC"}
    command = [sys.executable, "-c", COUNT]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert int(done.stdout) >= ASKED, done.stderr
