"""Each guide runs to its end, and what it claims, in its assertions, holds. Sharding sees four devices."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "guides"
GUIDES = sorted(FOLDER.glob("*.py"))
LONGEST = 60
# What takes long; fast are those that show how to write a part of one's own.
SLOW = {
    "bandit",
    "belief_states",
    "continual_flax_nnx",
    "equinox_model",
    "exchanged_sensor",
    "forecast_csv",
    "gaussian_process",
    "gaussian_process_series",
    "lora_and_last_layer",
    "online_regression",
    "own_method",
    "sweep",
    "uneven_batches",
}
ALONE = "sharding"
SERIES = Path(os.environ.get("WEIGHTFILTER_DATA", ""), "series", "ETTh1.csv.gz")
ABSENT = {"gaussian_process_series": pytest.mark.skipif(not SERIES.exists(), reason="would download")}
RUN = [
    pytest.param(
        guide,
        id=guide.stem,
        marks=[
            *(pytest.mark.slow for _ in {guide.stem} & SLOW),
            *(ABSENT[name] for name in {guide.stem} & set(ABSENT)),
        ],
    )
    for guide in GUIDES
    if guide.stem != ALONE
]


@pytest.fixture(autouse=True)
def one_precision():
    """Guides are in float32, as their readers are."""
    with jax.enable_x64(False):
        yield


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_is_short(guide):
    text = guide.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LONGEST
    assert "assert" in text, "a guide checks what it claims"


@pytest.mark.parametrize("guide", RUN)
@pytest.mark.filterwarnings("ignore:fit. .* training rows are few")
def test_a_guide_runs(guide, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(guide), run_name="__main__")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_guide_on_sharding_runs_on_four_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{ALONE}.py")],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(FOLDER.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "on 4 devices" in done.stdout
