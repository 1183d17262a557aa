"""Run-time checks of the package's shape annotations, double precision."""

import os
from collections.abc import Callable, Iterator
from typing import Any

# As for the other package: most of the tests' time is compilation.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

import beartype
import jax
import jaxtyping
import pytest


def checked(function: Callable) -> Callable:
    """beartype on the annotations of shapes alone."""
    function.__annotations__ = {
        name: hint if "jaxtyping." in str(hint) else Any for name, hint in function.__annotations__.items()
    }
    return beartype.beartype(function)


jaxtyping.install_import_hook("latenttrack", f"{__name__}.{checked.__name__}")


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield
