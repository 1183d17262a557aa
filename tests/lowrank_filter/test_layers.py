"""Layers found in parameters and in networks: K-FAC's factors by hand, and the networks they can be read from."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from suites import fast

import lowrank_filter as lf
from lowrank_filter.kernels import network_reader
from lowrank_filter.kernels.examples import Examples, prepare
from lowrank_filter.kernels.ggn import curvature
from lowrank_filter.kernels.linearisation import Linearisation

pytestmark = pytest.mark.usefixtures("x64")

POSITIONS, IN, OUT, B = 4, 3, 2, 5
LIKELIHOOD = lf.Gaussian(0.5)


def x_of(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def params_of(shapes):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s)), shapes, is_leaf=lambda s: isinstance(s, tuple))


def ggn(apply_fn, params, x, variance=0.5):
    row, unravel = ravel_pytree(params)
    jacobian = np.asarray(jax.jit(jax.jacobian(lambda p: apply_fn(unravel(p), x)))(row)).reshape(-1, row.size)
    return jacobian.T @ jacobian / variance


def site(apply_fn, params, x, *, likelihood=LIKELIHOOD, **options):
    """The Kronecker site of a batch as a dense matrix."""
    belief = lf.init(params, structure=lf.KroneckerFactored(**options))
    y = jnp.zeros(jax.eval_shape(apply_fn, params, x).shape)
    row, unravel = ravel_pytree(params)

    @jax.jit
    def matrix(belief):
        _, info = lf.laplace_update(belief, params, apply_fn, likelihood, x, y, batch_size=2)
        return jax.vmap(lambda v: ravel_pytree(info.site.matvec(unravel(v)))[0])(jnp.eye(row.size))

    return np.asarray(matrix(belief))


SHARED = {"w": (IN, OUT), "b": (OUT,)}
CONVOLUTION = {"kernel": (2, 2, IN, OUT), "bias": (OUT,)}


def positions(params, x):
    """The same layer at every position, all of which are outputs: what *expand* is exact for."""
    return (x @ params["w"] + params["b"]).reshape(len(x), -1)


def mean(params, x):
    """The mean over positions: what *reduce* is exact for."""
    return jnp.mean(x @ params["w"] + params["b"], axis=1)


def convolved(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    return (
        jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "VALID", dimension_numbers=numbers) + params["bias"]
    )


EXACT = {
    "one example": (lambda p, x: x @ p["w"] + p["b"], SHARED, (1, IN), "expand"),
    "a linear layer": (lambda p, x: x @ p["w"] + p["b"], SHARED, (B, IN), "reduce"),
    "positions, expanded": (positions, SHARED, (B, POSITIONS, IN), "expand"),
    "mean, reduced": (mean, SHARED, (B, POSITIONS, IN), "reduce"),
    "convolution, expanded": (lambda p, x: convolved(p, x).reshape(len(x), -1), CONVOLUTION, (B, 3, 3, IN), "expand"),
    "convolution, reduced": (lambda p, x: convolved(p, x).mean((1, 2)), CONVOLUTION, (B, 3, 3, IN), "reduce"),
}


@pytest.mark.parametrize(
    "name", fast(EXACT, "one example", "positions, expanded", "mean, reduced", "convolution, reduced")
)
def test_kfac_is_exact_where_it_should_be(name):
    """Linear networks; with shared weights, in the setting of each convention (Eschenhagen et al. 2023)."""
    apply_fn, shapes, shape, shared = EXACT[name]
    params, x = params_of(shapes), x_of(*shape)
    assert dense.relative_error(site(apply_fn, params, x, shared=shared), ggn(apply_fn, params, x)) < 1e-9


@pytest.mark.parametrize("shared", ["expand", "reduce"])
def test_kfac_of_shared_weights_by_the_conventions(shared):
    """A = Σ a aᵀ/(N·T), G = Σ g gᵀ over examples and positions; or A of mean inputs, G of summed gradients."""
    params, x = params_of(SHARED), x_of(B, POSITIONS, IN)

    def apply_fn(params, x):
        return jnp.sum(jnp.tanh(x @ params["w"] + params["b"]) ** 2, axis=1)

    hidden = np.tanh(x @ params["w"] + params["b"])
    g = np.einsum("btu,uv->btuv", 2 * hidden * (1 - hidden**2), np.eye(OUT)) / np.sqrt(0.5)
    a = np.concatenate([x, np.ones((B, POSITIONS, 1))], axis=2)
    if shared == "expand":
        inputs = np.einsum("bti,btj->ij", a, a) / (B * POSITIONS)
        units = np.einsum("btur,btvr->uv", g, g)
    else:
        inputs = np.einsum("bi,bj->ij", a.mean(1), a.mean(1)) / B
        units = np.einsum("bur,bvr->uv", g.sum(1), g.sum(1))
    number = ravel_pytree(params)[1](jnp.arange(OUT * (IN + 1)))
    order = np.concatenate([np.asarray(number["w"]).T, np.asarray(number["b"])[:, None]], axis=1).ravel().astype(int)
    came = site(apply_fn, params, x, shared=shared)[np.ix_(order, order)]
    assert dense.relative_error(came, np.kron(units, inputs)) < 1e-9


def of_flax(module, *shape):
    params = jax.jit(module.init)(jax.random.key(0), jnp.ones((1, *shape)))
    return module.apply, jax.tree.map(lambda p: p + 0.1, params), (B, *shape)


def convolutions():
    nn = pytest.importorskip("flax.linen")

    class Convolutional(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = jnp.tanh(nn.Conv(2, (2, 2), strides=(2, 1), param_dtype=float)(x))
            x = nn.GroupNorm(num_groups=1, param_dtype=float)(x).reshape(len(x), -1)
            return nn.Dense(OUT, param_dtype=float)(x)

    return of_flax(Convolutional(), 3, 3, IN)


def attention():
    nn = pytest.importorskip("flax.linen")

    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4, param_dtype=float)(x)
            return nn.Dense(OUT, param_dtype=float)(nn.LayerNorm(param_dtype=float)(x).mean(1))

    return of_flax(Attention(), POSITIONS, IN)


def applied_to_one(params, x):
    """Written for one example, as equinox networks are, with weights [out, in]."""

    def one(x):
        hidden = jnp.tanh(params[0]["weight"] @ x + params[0]["bias"])
        return params[1]["weight"] @ hidden + params[1]["bias"]

    return jax.vmap(one)(x)


def recurrent(params, x):
    state = jnp.zeros((len(x), OUT))
    for t in range(POSITIONS):
        state = jnp.tanh(x[:, t] @ params["in"]["w"] + state @ params["state"] + params["in"]["b"])
    return state


def looked_up(params, x):
    """An embedding, and a product in which a parameter is not by itself: neither can be read."""
    return (jnp.mean(params["embedding"][x.astype(int)], axis=1) @ jnp.exp(params["w"])) + params["b"]


def uneven(params, x):
    """A bias that is subtracted, and one that is added to some of the outputs only."""
    hidden = jnp.tanh(x @ params[0]["w"] - params[0]["b"])
    wide = hidden @ params[1]["w"]
    return wide[:, :OUT] + params[1]["b"] + wide[:, OUT:]


NETWORKS = {
    "convolutions": convolutions,
    "attention": attention,
    "one example at a time": lambda: (
        applied_to_one,
        params_of([{"weight": (OUT, IN), "bias": (OUT,)}, {"weight": (OUT, OUT), "bias": (OUT,)}]),
        (B, IN),
    ),
    "recurrent": lambda: (recurrent, params_of({"in": SHARED, "state": (OUT, OUT)}), (B, POSITIONS, IN)),
    "uneven biases": lambda: (uneven, params_of([SHARED, {"w": (OUT, 2 * OUT), "b": (OUT,)}]), (B, IN)),
    "not to be read": lambda: (looked_up, params_of({"embedding": (3, IN), **SHARED}), (B, POSITIONS)),
}
"""Each with its parameters and the shape of its inputs; those of flax where it is there."""


@pytest.mark.parametrize("blocks", [pytest.param("layer", marks=pytest.mark.slow), "unit"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in ("attention", "convolutions") else []) for n in NETWORKS]
)
def test_blocks_of_any_network(name, blocks):
    """Blocks from layer inputs and output gradients where they can be read, from whole gradients where not."""
    apply_fn, params, shape = NETWORKS[name]()
    x = x_of(*shape) ** 2
    row, unravel = ravel_pytree(params)
    layout = lf.init(params, rank=1, structure=blocks).precision.layout

    @jax.jit
    def product(params):
        batch = prepare(params, apply_fn, LIKELIHOOD, Examples(x, jnp.zeros((len(x), OUT)), None))
        operator = curvature(params, apply_fn, LIKELIHOOD, batch, 1.0, 2)
        directions = layout.split_stack(jax.vmap(unravel)(jnp.eye(row.size)))
        return jax.vmap(lambda v: ravel_pytree(v)[0])(layout.join_stack(operator.block_product(layout, directions)))

    numbers = [100 * i + jnp.arange(len(part))[:, None] + 0 * part for i, part in enumerate(layout.split(params))]
    label = np.asarray(ravel_pytree(layout.join(numbers))[0])
    expected = ggn(apply_fn, params, x) * (label[:, None] == label[None, :])
    assert dense.relative_error(product(params), expected) < 1e-9


@pytest.mark.parametrize(
    "name", fast(["convolutions", "attention", "one example at a time"], "convolutions", "one example at a time")
)
def test_these_are_read_and_not_differentiated_example_by_example(name):
    apply_fn, params, shape = NETWORKS[name]()
    reading = network_reader.read(apply_fn, params, x_of(*shape))
    layout = lf.init(params, structure="kronecker").precision.layout
    found = [reading.layer_uses(layout.positions(group)) for group in layout.groups if group.layer]
    assert len(found) >= 2 and all(len(uses) == 1 for uses in found)


@pytest.mark.parametrize("name", ["convolutions", pytest.param("attention", marks=pytest.mark.slow)])
def test_columns_of_shared_weights_cost_as_much_for_each_example(name):
    """The same numbers as a Jacobian, and operations that grow with the batch and not with its square."""
    apply_fn, params, shape = NETWORKS[name]()

    def columns(params, x):
        size = len(x)
        root = jnp.broadcast_to(jnp.eye(OUT), (size, OUT, OUT))
        return Linearisation(apply_fn, params, x).columns(x, lambda _: root)[1].stack()

    def compiled(size):
        return jax.jit(columns).lower(params, x_of(size, *shape[1:])).compile()

    few, many = compiled(4), compiled(32)
    assert many.cost_analysis()["flops"] < 1.1 * 8 * few.cost_analysis()["flops"]
    x = x_of(4, *shape[1:])
    expected = jax.vmap(lambda p: ravel_pytree(p)[0])(
        jax.tree.map(lambda v: v.reshape(4 * OUT, *v.shape[2:]), jax.jit(jax.jacobian(apply_fn))(params, x))
    )
    came = jax.vmap(lambda p: ravel_pytree(p)[0])(few(params, x))
    assert dense.relative_error(came, expected) < 1e-9


def test_a_network_that_takes_no_other_number_of_examples_is_not_read():
    def halves(params, x):
        return jnp.concatenate([half @ params for half in jnp.split(x, 2)])

    found = network_reader.read(halves, jnp.ones((3, OUT)), jnp.ones((4, 3)))
    assert found.unknown.all() and not found.uses
    x = jnp.ones((4, 3))
    root = jnp.broadcast_to(jnp.eye(OUT), (4, OUT, OUT))
    _, columns = Linearisation(halves, jnp.ones((3, OUT)), x).columns(x, lambda _: root)
    assert columns.stack().shape == (4 * OUT, 3, OUT)


def in_fours(params, x):
    assert len(x) % 4 == 0
    return jnp.tanh(x.reshape(4, -1, x.shape[1]) @ params["w"]).reshape(len(x), OUT) + params["b"]


def many_are_sorted(params, x):
    """Other operations from four examples on."""
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    return jnp.sort(hidden, axis=1) if len(x) >= 4 else hidden


def misread(*_):
    raise KeyError("new_sizes")


@pytest.mark.parametrize("name", ["a network of fours", "another one for many", "an operation misread"])
def test_what_cannot_be_read_is_differentiated(name, monkeypatch):
    apply_fn = {"a network of fours": in_fours, "another one for many": many_are_sorted}.get(name, positions)
    if apply_fn is positions:
        monkeypatch.setattr(network_reader, "_evaluate", misread)
    params, x = params_of(SHARED), x_of(*((4, POSITIONS, IN) if apply_fn is positions else (4, IN)))
    y = jnp.zeros((4, apply_fn(params, x).shape[1]))
    belief = lf.init(params, rank=16)
    _, info = lf.update(belief, apply_fn, LIKELIHOOD, x, y, iterations=0)
    factor = jax.vmap(lambda v: ravel_pytree(v)[0])(info.site.factor)
    assert (
        dense.relative_error(factor.T @ factor + np.diag(ravel_pytree(info.site.diag)[0]), ggn(apply_fn, params, x))
        < 1e-9
    )
    _, info = lf.laplace_update(lf.init(params, rank=0), params, apply_fn, LIKELIHOOD, x, y)
    assert dense.relative_error(ravel_pytree(info.site.diag)[0], np.diag(ggn(apply_fn, params, x))) < 1e-9


def test_a_layer_used_otherwise_is_an_error_that_names_it():
    apply_fn, params, shape = NETWORKS["not to be read"]()
    with pytest.raises(ValueError, match=r"\['w'\]: expected a layer whose kernel multiplies.*layers="):
        site(apply_fn, params, x_of(*shape) ** 2)


def paths(params):
    return {
        layer.kernel.rsplit("[", 1)[-1].strip("']."): (layer.bias, layer.outputs) for layer in lf.find_layers(params)
    }


def test_layers_found_by_shape_and_name():
    ones = jnp.ones
    assert paths({"weight": ones((5, 3)), "bias": ones(5)}) == {"weight": ("['bias']", (0,))}
    assert paths({"weight": ones((3, 3)), "bias": ones(3)}) == {"weight": ("['bias']", (0,))}
    assert paths({"kernel": ones((3, 3)), "bias": ones(3)}) == {"kernel": ("['bias']", (1,))}
    assert paths({"weight": ones((5, 3, 2, 2)), "bias": ones((5, 1, 1))}) == {"weight": ("['bias']", (0,))}
    assert paths({"w1": ones((3, 5)), "b1": ones(5), "w2": ones((5, 3)), "b2": ones(3)}) == {
        "w1": ("['b1']", (1,)),
        "w2": ("['b2']", (1,)),
    }
    assert [layer.bias for layer in lf.find_layers([(ones((3, 5)), ones(5)), (ones((5, 3)),)])] == ["[0][1]", None]
    assert lf.find_layers({"embedding": ones((9, 3)), "scale": ones(3)}) == ()


def test_layers_of_flax():
    found = lf.find_layers(NETWORKS["attention"]()[1])
    assert [layer.outputs for layer in found if "query" in layer.kernel] == [(1, 2)]
    assert all(layer.bias is not None for layer in found) and not any("LayerNorm" in layer.kernel for layer in found)


def test_layers_can_be_told():
    params = {"table": jnp.ones((9, 3)), "out": {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}}
    told = tuple(layer for layer in lf.find_layers(params) if "table" not in layer.kernel)
    groups = lf.init(params, structure=lf.LowRank(1, blocks="unit", layers=told)).precision.layout.groups
    assert [group.layer for group in groups] == [True, False]
    turned = (lf.Layer("['out']['w']", None, (0,)),)
    assert lf.init(params, structure=lf.LowRank(1, blocks="unit", layers=turned)).precision.parts[0].diag.shape == (
        3,
        2,
    )


BAD_LAYERS = {
    "no such leaf": (
        lf.Layer("['v']", None, (1,)),
        ValueError,
        r"paths of parameters, \['b'\], \['w'\]; got \"\['v'\]\"",
    ),
    "axes": (lf.Layer("['w']", None, (0, 1)), ValueError, r"some of the axes of \['w'\].*\(3, 2\).*got \(0, 1\)"),
    "bias": (
        lf.Layer("['w']", "['b']", (0,)),
        ValueError,
        r"\['b'\] with the shape of the outputs.*\(3,\); got \(2,\)",
    ),
    "a string": ("w", TypeError, r"expected Layer\(kernel, bias, outputs\), got 'w'"),
}


@pytest.mark.parametrize("name", BAD_LAYERS)
def test_layers_that_do_not_fit(name):
    layer, error, message = BAD_LAYERS[name]
    with pytest.raises(error, match=message):
        lf.init({"w": jnp.ones((3, 2)), "b": jnp.ones(2)}, structure=lf.KroneckerFactored(layers=[layer]))


def test_a_parameter_in_two_layers():
    layer = lf.Layer("['w']", None, (1,))
    with pytest.raises(ValueError, match="in at most one layer"):
        lf.init({"w": jnp.ones((3, 2))}, structure=lf.LowRank(1, blocks="unit", layers=[layer, layer]))
