"""Which cases of a matrix are in the fast suite: one of each mechanism. All of them run in one of the two."""

from collections.abc import Iterable
from typing import Any

import pytest


def fast(cases: Iterable, *chosen: Any) -> list:
    """All cases as pytest takes them (a tuple: several arguments), those not chosen marked as slow."""
    cases = list(cases)
    missing = [case for case in chosen if case not in cases]
    assert not missing, f"no cases: {missing}"
    marks = [() if case in chosen else pytest.mark.slow for case in cases]
    return [pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=m) for c, m in zip(cases, marks, strict=True)]
