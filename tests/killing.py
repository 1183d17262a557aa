"""Kill a command at random moments and start it again, until it comes to its end."""

import os
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def start(command: Sequence[str]) -> subprocess.Popen:
    """A process that imports the packages of this tree."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def survive(command: Sequence[str], outcome: Callable[[], Any], kills: int, seed: int) -> int:
    """How often the command came to its end, each time with the same outcome, while it was killed so many times.

    ``outcome`` returns what a run left and removes it.
    """
    began = time.monotonic()
    _finish(start(command))
    span, expected = time.monotonic() - began, outcome()
    chance, done, ends = random.Random(seed), 0, 0
    while done < kills or not ends:
        process = start(command)
        if done < kills:
            try:
                process.wait(chance.uniform(0, span))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                done += 1
                continue
        _finish(process)
        assert outcome() == expected
        ends += 1
    return ends


def _finish(process: subprocess.Popen) -> None:
    _, error = process.communicate()
    assert process.returncode == 0, error
