"""What all tests share: a compiler that is in a hurry, run-time checks of shape annotations, double precision."""

import gc
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Compiling is nine tenths of these tests' time, and takes a fifth of it this way. XLA_FLAGS= in the environment tests
# what the compiler makes of the packages otherwise. The last flag: with decompositions of batches side by side, as
# blocks have them, jaxlib 0.10's CPU runtime can wait for ever.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
)

import beartype
import hypothesis
import jax
import jaxtyping
import pytest


def checked(function: Callable) -> Callable:
    """beartype on the annotations of shapes alone: bad arguments of other kinds meet the package's own errors.

    ``Self`` and a static protocol beside a shape cannot be checked in a single function either.
    """
    function.__annotations__ = {name: hint if kept(hint) else Any for name, hint in function.__annotations__.items()}
    return beartype.beartype(function)


def kept(hint: Any) -> bool:
    return "jaxtyping." in str(hint) and not any(word in str(hint) for word in ("typing.Self", "Precision"))


def resolved(hint: Any, function: Callable) -> Any:
    """An annotation, of which ``from __future__ import annotations`` leaves the text."""
    try:
        return eval(hint, function.__globals__) if isinstance(hint, str) else hint
    except NameError:
        return Any


def jaxtyped(*, typechecker: Callable) -> Callable:
    """jaxtyping's own where a shape is annotated: else each function within a function is compiled at each call."""

    def decorated(what: Any) -> Any:
        function = what.fget if isinstance(what, property) else getattr(what, "__func__", what)
        shaped = inspect.isclass(what) or any(
            kept(resolved(hint, function)) for hint in function.__annotations__.values()
        )
        return every(what, typechecker=typechecker) if shaped else what

    return decorated


every, jaxtyping.jaxtyped = jaxtyping.jaxtyped, jaxtyped


# Before any test imports the package.
ROOMS = (
    "algebra",
    "gaussian_process",
    "next_latent",
    "tracking.network",
    "tracking.generated_weights",
)
HOOKED = ["lowrank_filter", *(f"latenttrack.{room}" for room in ROOMS)]
jaxtyping.install_import_hook(HOOKED, f"{__name__}.{checked.__name__}")

# Compiled programs are kept from run to run, for all clones of the project.
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(Path.home() / ".cache" / "weightfilter" / "jax"),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# Where in the source each operation comes from is a twentieth of tracing's time, and shown in no message here.
jax.config.update("jax_include_full_tracebacks_in_locations", False)
jax.config.update("jax_traceback_in_locations_limit", 0)
# Tracing makes many objects and next to no cycles.
gc.set_threshold(100_000, 20, 50)

hypothesis.settings.register_profile("repeatable", derandomize=True, max_examples=50, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def pytest_collection_finish() -> None:
    """What is imported and collected stays: no more is it looked through for garbage."""
    gc.collect()
    gc.freeze()


def resident() -> tuple[int, int]:
    """Bytes and maps of memory that this process holds; too many where there is no Linux to ask."""
    own = Path("/proc/self")
    if not own.exists():
        return 0, MAPS + 1
    pages = int((own / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), (own / "maps").read_text().count("\n")


# What programs may take until they are forgotten: bytes beyond what is left when they are, and a third of Linux' maps.
ROOM, MAPS = 3 * 2**29, 20_000
left = 2**29


@pytest.fixture(scope="module", autouse=True)
def forgetful() -> Iterator[None]:
    """Programs of one file serve few others, what JAX traced of its own functions serves all."""
    global left
    yield
    held, maps = resident()
    if held > left + ROOM or maps > MAPS:
        jax.clear_caches()
        left, _ = resident()


@pytest.fixture(scope="module")
def afresh() -> None:
    """For files that count what is compiled: nothing is there from the files before."""
    jax.clear_caches()
