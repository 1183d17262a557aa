"""Run-time checks of the package's shape annotations, double precision, and hypothesis' profile."""

from collections.abc import Callable, Iterator
from typing import Any

import beartype
import hypothesis
import jax
import jaxtyping
import pytest


def checked(function: Callable) -> Callable:
    """beartype on the annotations of shapes alone: bad arguments of other kinds meet the package's own errors.

    ``Self`` and a static protocol beside a shape cannot be checked in a single function either.
    """

    def kept(hint: Any) -> bool:
        return "jaxtyping." in str(hint) and not any(word in str(hint) for word in ("typing.Self", "Precision"))

    function.__annotations__ = {name: hint if kept(hint) else Any for name, hint in function.__annotations__.items()}
    return beartype.beartype(function)


jaxtyping.install_import_hook("lowrank_filter", f"{__name__}.{checked.__name__}")

hypothesis.settings.register_profile("repeatable", derandomize=True, max_examples=50, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield
