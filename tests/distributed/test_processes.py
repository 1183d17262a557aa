"""A belief held by two processes with four devices each: what one process with eight finds, saves and resumes."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import sharded

pytestmark = pytest.mark.slow  # processes of their own that compile for several devices
ROOT = Path(__file__).parent.parent


def started(task, folder, *, processes, devices):
    """The processes of one task, each with so many devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = os.environ["XLA_FLAGS"] + f" --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT.parent}:{ROOT}"}
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), task]
    return [
        subprocess.Popen(
            [*command, str(rank), str(processes), str(port), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


def found(task, folder, **shape):
    """What each process of a task printed at its end."""
    outputs = [(process, *process.communicate(timeout=600)) for process in started(task, folder, **shape)]
    for process, _, error in outputs:
        assert process.returncode == 0, error[-3000:]
    return [json.loads(output.splitlines()[-1]) for _, output, _ in outputs]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    return found("kernels", tmp_path_factory.mktemp("kernels"), processes=2, devices=4)


@pytest.mark.parametrize("kernel", ["predict", "update", "laplace_update", "smooth"])
def test_kernels_over_processes_are_those_of_one(kernels, kernel):
    for each in kernels:
        assert each[kernel]["difference"] < 100 * jnp.finfo(jnp.float32).eps
        assert each[kernel]["sharded"]


@pytest.mark.parametrize("kernel", ["predict", "smooth"])
def test_only_small_matrices_move_between_processes(kernels, kernel):
    assert 0 < kernels[0][kernel]["moved"] <= sharded.RANK**2


@pytest.mark.parametrize("kernel", ["update", "laplace_update"])
def test_only_activations_move_between_processes(kernels, kernel):
    widest, examples = max(sharded.SIZES), 1 if kernel == "update" else sharded.EXAMPLES
    assert 0 < kernels[0][kernel]["moved"] <= examples * max(sharded.SIZES[-1], sharded.RANK + 4) * widest


def test_eager_calls_look_at_what_can_be_seen(tmp_path):
    for each in found("refused", tmp_path, processes=2, devices=4):
        assert each["finite"]
        assert "y: expected targets in the domain of Categorical" in each["error"]


@pytest.mark.parametrize(("processes", "devices"), [(1, 4), (1, 1), (2, 4)])
@pytest.mark.parametrize("before", [(1, 8), (2, 4)])
def test_a_state_saved_on_eight_devices_is_restored_on_others(tmp_path, before, processes, devices):
    found("save", tmp_path, processes=before[0], devices=before[1])
    for each in found("restore", tmp_path, processes=processes, devices=devices):
        assert each == {"position": 1, "same": True, "devices": processes * devices}


def test_a_run_of_two_processes_goes_on_after_one_was_killed(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    found("run", whole, processes=2, devices=4)
    processes = started("run", cut, processes=2, devices=4)
    until = time.monotonic() + 300
    while not any((cut / "checkpoint").glob("[0-9]*/state")) and time.monotonic() < until:
        time.sleep(0.02)
    processes[1].kill()
    processes[0].kill()  # which would wait for the other
    for process in processes:
        process.communicate()
    assert not (cut / "outcome.npz").exists()
    found("run", cut, processes=2, devices=4)
    with np.load(whole / "outcome.npz") as expected, np.load(cut / "outcome.npz") as came:
        for name in expected:
            np.testing.assert_array_equal(came[name], expected[name])
