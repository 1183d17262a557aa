"""Every public function shows by an example what it does, and does it; in one process, so that programs are shared."""

import doctest
import inspect
import types

import jax
import jax.numpy as jnp
import optax
import pytest
from suites import fast

import latenttrack as lt
import lowrank_filter as lf
from latenttrack import gaussian_process

NAMES = {"jax": jax, "jnp": jnp, "optax": optax, "lf": lf, "lt": lt, "gp": gaussian_process}
SHARED = dict(NAMES)


def functions(package: types.ModuleType, names: list[str]) -> dict:
    found = {f"{package.__name__}.{name}": inspect.unwrap(getattr(package, name)) for name in names}
    return {name: value for name, value in found.items() if inspect.isfunction(value)}


METRICS = [
    name
    for name, value in vars(lt.metrics).items()
    if not name.startswith("_") and getattr(value, "__module__", "") == lt.metrics.__name__
]
PUBLIC = functions(lt.metrics, METRICS)
for package in (lf, lt, gaussian_process):
    PUBLIC |= functions(package, package.__all__)


@pytest.fixture(autouse=True)
def one_precision():
    """Examples are in float32, as their readers are."""
    with jax.enable_x64(False):
        yield


@pytest.fixture
def names():
    """What an example finds. One dictionary for all: functions that are alike in it share a program."""
    yield SHARED
    SHARED.clear()
    SHARED.update(NAMES)


# Those that compile the longest programs; a guide or a test of its own shows each of them too.
LONG = {"latenttrack.adapted", "latenttrack.fit", "lowrank_filter.changepoint_filter", "lowrank_filter.adaptive_filter"}


@pytest.mark.parametrize("name", fast(PUBLIC, *set(PUBLIC) - LONG))
def test_the_example_shows_what_comes(name, names):
    shown = doctest.DocTestParser().get_doctest(PUBLIC[name].__doc__, {}, name, None, None)
    assert shown.examples, f"{name}: expected a >>> example in the docstring"
    shown.globs = names
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(shown, out=report.append, clear_globs=False)
    assert not report, "".join(report)


def test_what_is_looked_at():
    assert {"lowrank_filter.update", "latenttrack.fit", "latenttrack.metrics.crps"} < set(PUBLIC)
