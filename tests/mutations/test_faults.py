"""The list of seeded faults fits the code that it is about."""

from pathlib import Path

import pytest
from mutations.faults import FAULTS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", FAULTS)
def test_a_faults_place_is_there_once(name: str) -> None:
    fault = FAULTS[name]
    assert (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) == 1
    assert all((ROOT / path).exists() for path in fault.tests.split())
