"""Beliefs of every structure, saved in every way that people have: they come back and go on, bit for bit."""

import copy
import pickle

import equinox as eqx
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import lowrank_filter as lf

try:
    import cloudpickle
except ImportError:
    cloudpickle = None

KEYS = jax.random.split(jax.random.key(0), 3)
STARTS = {
    "network": lambda p: lf.init(p, rank=2),
    "layer": lambda p: lf.init(p, rank=2, structure="layer"),
    "unit": lambda p: lf.init(p, rank=2, structure="unit"),
    "kronecker": lambda p: lf.init(p, structure="kronecker"),
    "parts": lambda p: lf.init(p, structure=jax.tree.map(lambda w: lf.Dense() if w.ndim == 1 else lf.LowRank(2), p)),
    "frozen": lambda p: lf.init(p, structure=jax.tree.map(lambda w: lf.Frozen() if w.ndim == 1 else lf.Dense(), p)),
}
X, Y = jax.random.normal(KEYS[0], (4, 3)), jnp.array([0, 1, 1, 0])
LINEAR = eqx.nn.Linear(3, 2, key=KEYS[1])
PARAMS = {"a": {"w": jax.random.normal(KEYS[2], (3, 2)), "b": jnp.zeros(2)}}
NETWORKS = {
    "equinox": (LINEAR, lambda p, x: jax.vmap(p)(x)),
    "dict": (PARAMS, lambda p, x: x @ p["a"]["w"] + p["a"]["b"]),
}


def pickled(belief, _):
    return pickle.loads(pickle.dumps(belief))


def cloudpickled(belief, _):
    return cloudpickle.loads(cloudpickle.dumps(belief))


def copied(belief, _):
    return copy.deepcopy(belief)


def by_flax(belief, _):
    target = jax.tree.map(jnp.zeros_like, belief)
    return flax.serialization.from_bytes(target, flax.serialization.to_bytes(belief))


def by_orbax(belief, folder):
    with ocp.StandardCheckpointer() as saver:
        saver.save(folder / "belief", belief)
        saver.wait_until_finished()
        return saver.restore(folder / "belief", belief)


def by_paths(belief, _):
    """Named leaves, as in an npz file."""
    named = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(belief)}
    assert len(named) == len(jax.tree.leaves(belief))
    return jax.tree_util.tree_map_with_path(lambda path, _: named[jax.tree_util.keystr(path)], belief)


WAYS = [pickled, copied, by_flax, by_orbax, by_paths, *([cloudpickled] if cloudpickle else [])]


# Both networks and all structures but one, of which each way knows nothing; all with all in the slow suite.
QUICK = {("equinox", "network"), *(("dict", structure) for structure in STARTS if structure != "layer")}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((n, s), id=f"{n}-{s}", marks=() if (n, s) in QUICK else pytest.mark.slow)
        for n in NETWORKS
        for s in STARTS
    ],
)
def case(request):
    name, structure = request.param
    params, network = NETWORKS[name]

    @jax.jit
    def onwards(belief):
        return lf.update(belief, network, lf.Categorical(), X, Y, process_noise=0.1, iterations=0)

    return name, onwards(STARTS[structure](params))[0], onwards


@pytest.mark.parametrize("way", WAYS)
def test_a_belief_comes_back_and_goes_on(case, way, tmp_path):
    name, belief, onwards = case
    if way is by_flax and name == "equinox":
        pytest.skip("flax does not know equinox's modules")
    came = way(belief, tmp_path)
    assert jax.tree.structure(came) == jax.tree.structure(belief)
    jax.tree.map(np.testing.assert_array_equal, came, belief)
    jax.tree.map(np.testing.assert_array_equal, onwards(came), onwards(belief))


def test_a_belief_is_shown_by_what_it_is():
    shown = {name: repr(start(PARAMS)) for name, start in STARTS.items()}
    assert shown["network"] == "Belief(D=8, float32, rank=2, DiagLowRank)"
    for name, text in shown.items():
        assert "D=8" in text, name
        assert "Array" not in text, name
    assert (
        repr(jax.jit(lambda b: (print(b), b)[1])(lf.init(PARAMS, rank=1)))
        == "Belief(D=8, float32, rank=1, DiagLowRank)"
    )


def test_a_stack_of_beliefs_is_shown_as_one():
    for name, start in STARTS.items():
        belief = start(PARAMS)
        stack = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, 3, *leaf.shape)), belief)
        assert repr(stack) == repr(belief).replace("Belief", "Belief[4, 3]"), name
        assert repr(stack.precision) == repr(belief.precision).replace("DiagLowRank", "DiagLowRank[4, 3]"), name


def test_what_the_package_tells_of_itself():
    assert lf.__version__.count(".") == 2
    assert issubclass(lf.OtherRunError, ValueError)


@pytest.mark.parametrize("name", ["extended", *(pytest.param(n, marks=pytest.mark.slow) for n in ("laplace", "bare"))])
def test_filters_have_one_shape(name):
    """A step in any case, that is predict and then update; mini-batches have a key."""
    import optax  # noqa: PLC0415

    params, network = NETWORKS["dict"]
    extended = lf.extended_filter(network, lf.Categorical(), rank=1, process_noise=0.1, iterations=0)
    built = {
        "extended": extended,
        "laplace": lf.laplace_filter(network, lf.Categorical(), optax.sgd(0.01), steps=2, rank=1, fit_batch_size=2),
        "bare": lf.Filter(extended.init, extended.predict, extended.update),
    }[name]
    belief = built.init(params)
    after, _ = built.step(belief, X, Y)
    twice, _ = built.update(built.predict(belief), X, Y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after.mean, twice.mean)
    streamed, _ = lf.filter_stream(built, belief, X, Y, chunk_size=2)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(streamed))


def test_a_kronecker_filter_has_no_rank():
    _, network = NETWORKS["dict"]
    with pytest.raises(ValueError, match=r"(?s)rank: expected None.*got 3"):
        lf.extended_filter(network, lf.Categorical(), rank=3, structure="kronecker")
