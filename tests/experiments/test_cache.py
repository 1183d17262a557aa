"""What was computed is found again, with the seconds that it took."""

import time
from pathlib import Path

import numpy as np

from experiments.run.cache import Cache


def test_the_seconds_of_an_earlier_run_are_counted_once(tmp_path: Path) -> None:
    def compute() -> dict[str, np.ndarray]:
        time.sleep(0.05)
        return {"a": np.arange(3), "b": np.ones(2)}

    def found(cache: Cache) -> dict[str, np.ndarray]:
        return cache.recall({"of": 1}, compute, lambda: {"a": 0, "b": 0})

    first = Cache(tmp_path, {})
    wanted = found(first)
    found(first)
    assert first.earlier == 0
    again, counted = Cache(tmp_path, {}), []
    for _ in range(2):
        for name, value in found(again).items():
            np.testing.assert_array_equal(value, wanted[name])
        counted.append(again.earlier)
    assert counted[0] >= 0.05 and counted[1] == counted[0]
