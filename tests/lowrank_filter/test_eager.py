"""Kernels called without an outer jit: compiled once for the same functions and shapes, with memory that stays flat."""

import dataclasses
import gc
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lowrank_filter as lf
from lowrank_filter.common.compiled import Static, _compiler_options, compiled

pytestmark = pytest.mark.usefixtures("afresh")

KEYS = jax.random.split(jax.random.key(0), 4)
PARAMS = {"w": jax.random.normal(KEYS[0], (3, 2)), "b": jnp.zeros(2)}
X, Y = np.asarray(jax.random.normal(KEYS[1], (4, 3))), np.array([0, 1, 1, 0])
LIKELIHOOD = lf.Categorical()
STARTS = {
    "network": lambda: lf.init(PARAMS, rank=2),
    "unit": lambda: lf.init(PARAMS, rank=2, structure="unit"),
    "kronecker": lambda: lf.init(PARAMS, structure="kronecker"),
}


def net(params, x):
    return x @ params["w"] + params["b"]


def stacked(belief):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), belief)


def stream(belief, structure):
    # Not by extended_filter: the run-time checks of annotations that the tests add make other functions every time.
    noise = jnp.float32(0.1)
    built = lf.Filter(
        STARTS[structure],
        lambda belief: lf.predict(belief, noise),
        lambda belief, x, y, mask: lf.update(belief, net, LIKELIHOOD, x, y, mask=mask, iterations=0),
    )
    return lf.filter_stream(built, belief, X, Y)


def fit(belief, _):
    # Network and optimiser are made anew at each call, as in a loop over tasks.
    return lf.fit(belief, lambda p, x: net(p, x), LIKELIHOOD, X, Y, optimizer=optax.adam(1e-2), steps=2)


CALLS = {
    "init": lambda _, structure: STARTS[structure](),
    "scaled": lambda *_: lf.init(PARAMS, lf.scaled(lambda p, x: net(p, x), X, Y, likelihood=LIKELIHOOD), rank=1),
    "predict": lambda belief, _: lf.predict(belief, 0.1, 0.9),
    "update": lambda belief, _: lf.update(belief, net, LIKELIHOOD, X, Y, process_noise=0.1),
    "laplace_update": lambda belief, _: lf.laplace_update(belief, PARAMS, net, LIKELIHOOD, X, Y),
    "smooth": lambda belief, _: lf.smooth(stacked(belief), stacked(belief).precision, 0.1),
    "sample": lambda belief, _: lf.sample(KEYS[2], belief, 2),
    "predictive": lambda belief, _: lf.predictive(belief, net, X),
    "penalty": lambda belief, _: lf.penalty(belief, PARAMS),
    "zero_site": lambda belief, _: lf.zero_site(belief),
    "filter_stream": stream,
    "fit": fit,
    "matvec": lambda belief, _: lf.matvec(belief.precision, PARAMS),
    "solve": lambda belief, _: lf.solve(belief.precision, PARAMS),
    "logdet": lambda belief, _: lf.logdet(belief.precision),
    "inverse_diagonal": lambda belief, _: lf.inverse_diagonal(belief.precision),
    "truncate": lambda belief, _: lf.truncate(belief.precision, 1),
}


@pytest.fixture
def compilations():
    """Names of what was compiled."""
    seen = []

    def listen(name, *_, **__):
        if name.endswith("backend_compile_duration"):
            seen.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


ONCE = ("scaled", "update", "laplace_update", "filter_stream", "fit")  # long programs, which one structure shows


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        pytest.param(
            name,
            structure,
            marks=pytest.mark.slow if structure == "unit" or (structure == "kronecker" and name in ONCE) else (),
        )
        for name in CALLS
        for structure in STARTS
    ],
)
def test_the_second_call_compiles_nothing(name, structure, compilations):
    belief = STARTS[structure]()
    before = len(compilations)
    first = CALLS[name](belief, structure)
    assert len(compilations) > before or name in ("init", "scaled", "zero_site")
    before = len(compilations)
    second = CALLS[name](belief, structure)
    assert len(compilations) == before
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(first), jax.tree.leaves(second))


@pytest.mark.slow
def test_memory_stays_flat_over_two_hundred_calls():
    belief = STARTS["network"]()

    def calls(count):
        for _ in range(count):
            belief_, _ = lf.update(belief, net, LIKELIHOOD, X, Y)
            fit(belief_, None)
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(jax.live_arrays())

    calls(5)
    before, after = calls(5), calls(200)
    assert after[1] <= before[1]
    assert after[0] - before[0] < 4096, (before, after)  # kB; one program alone takes more


@pytest.mark.slow
def test_closures_over_much_are_not_kept():
    def call(size):
        big = jnp.ones(size)
        return jax.block_until_ready(compiled(_scaled, 1.0, function=lambda x: x * big[0]))

    def large():
        return sum(a.size >= 2**18 for a in jax.live_arrays())

    gc.collect()
    alive, before = len(jax.live_arrays()), large()
    for index in range(6):
        call(2**18 + 1 + index)
    gc.collect()
    assert large() <= before + 4
    assert len(jax.live_arrays()) <= alive + 12


def _scaled(x, *, function):
    return function(x)


@dataclasses.dataclass(frozen=True)
class Callable:
    scale: float

    def __call__(self, x):
        return self.scale * x


def test_functions_are_the_same_where_nothing_tells_them_apart():
    def made(number, array, name="a"):
        def inner(x):
            return number * x + array

        return lambda x, extra=name: inner(x)

    small, large = np.ones(2), jnp.ones(2000)
    same = Static({"f": made(1.0, small)})
    assert same == Static({"f": made(1.0, small.copy())})
    assert same != Static({"f": made(1, small)})
    assert same != Static({"f": made(-0.0, small)}) != Static({"f": made(0.0, small)})
    assert same != Static({"f": made(1.0, small + 1)})
    assert same != Static({"f": made(1.0, small, "b")})
    assert Static({"f": made(1.0, large)}) == Static({"f": made(1.0, large)})
    assert Static({"f": made(1.0, large)}) != Static({"f": made(1.0, large + 0)})
    assert Static({"f": optax.adam(1e-2)}) == Static({"f": optax.adam(1e-2)}) != Static({"f": optax.adam(1e-3)})
    assert Static({"f": Callable(1.0)}) == Static({"f": Callable(1.0)}) != Static({"f": Callable(2.0)})

    def recursive(n):
        return recursive(n - 1) if n else 0

    assert Static({"f": recursive}) == Static({"f": recursive})


SCALE = 1.0


def scaled(value):
    return jnp.asarray(SCALE, jax.dtypes.canonicalize_dtype(float)) * value


def uses_names(params, x):
    return scaled(net(params, x))


def test_what_a_network_finds_by_name_is_looked_up_again(monkeypatch):
    def losses():
        return lf.update(STARTS["network"](), uses_names, LIKELIHOOD, X, Y, iterations=0)[1].loss

    first = losses()
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    number = losses()
    monkeypatch.setitem(globals(), "scaled", lambda value: 0 * value)
    helper = losses()
    assert first != number
    np.testing.assert_allclose(helper, len(Y) * np.log(2), rtol=1e-5)


def test_what_a_network_closes_over_may_be_traced():
    """A vmap, grad or jit over what apply_fn closes over; eager ones too."""
    belief = STARTS["kronecker"]()

    def variance(scale):
        return jnp.sum(lf.predictive(belief, lambda p, x: scale * net(p, x), X).covariance)

    plain = np.array([variance(scale) for scale in (0.5, 2.0)])
    for mapped in (jax.vmap(variance), jax.jit(jax.vmap(variance)), lambda s: jax.lax.map(variance, s)):
        np.testing.assert_allclose(mapped(jnp.array([0.5, 2.0])), plain, rtol=1e-5)
    for slope in (jax.grad(variance), jax.jit(jax.grad(variance))):
        np.testing.assert_allclose(slope(2.0), plain[1], rtol=1e-5)


def test_under_a_trace_it_is_the_plain_kernel():
    jaxpr = jax.make_jaxpr(lambda b: lf.predict(b, 0.1))(STARTS["network"]())
    assert "_predict" not in str(jaxpr)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of the compiler for CPUs")
def test_flags_of_the_user_come_before_options_of_ours(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    assert _compiler_options.__wrapped__() == {
        "xla_cpu_use_fusion_emitters": False,
        "xla_backend_optimization_level": 1,
    }
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    assert _compiler_options.__wrapped__() == {"xla_cpu_use_fusion_emitters": False}
