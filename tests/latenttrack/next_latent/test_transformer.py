"""The trunk: causal, the cache equals none, chunks equal the whole; ψ and the filter that it makes."""

import chex
import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_models as tm
from suites import fast

from latenttrack import next_latent as nl

pytestmark = pytest.mark.usefixtures("x64")
TOKENS = tm.tokens(3, tm.WINDOW)


FORMS = [(p, *d) for p in ("rotary", "learned") for d in ((jnp.float64, 1e-12), (jnp.float32, 1e-5))]


@pytest.mark.parametrize(("positions", "dtype", "tolerance"), fast(FORMS, FORMS[0], FORMS[3]))
def test_a_cache_and_chunks_change_nothing(positions, dtype, tolerance):
    model = tm.transformer(positions, layers=2)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), tm.params(positions, 2).model)
    whole = model.hidden(params, TOKENS)
    assert whole.dtype == dtype
    cache, parts, position = model.initial_cache(params, 3, tm.WINDOW), [], 0
    for size in (3, 1, 3, 1, 3, 3):
        part, cache = model.extend(params, cache, TOKENS[:, position : position + size], position)
        parts.append(part)
        position += size
    assert dense.relative_error(jnp.concatenate(parts, 1), whole) < tolerance
    # Going back is a smaller position: what the cache has beyond it is not looked at.
    again, _ = model.extend(params, cache, TOKENS[:, 4:7], 4)
    assert dense.relative_error(again, whole[:, 4:7]) < tolerance


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_causal_and_aware_of_positions(positions):
    model, params = tm.transformer(positions, layers=2), tm.params(positions, 2).model
    whole = model.hidden(params, TOKENS)
    tokens = np.array(TOKENS)
    tokens[:, 6] = (tokens[:, 6] + 1) % tm.VOCABULARY
    changed = model.hidden(params, jnp.asarray(tokens))
    assert jnp.all(changed[:, :6] == whole[:, :6]) and jnp.all(jnp.any(changed[:, 6:] != whole[:, 6:], -1))
    tokens[:, :2] = 0, 1
    ordered, tokens[:, :2] = model.hidden(params, jnp.asarray(tokens)), (1, 0)
    assert jnp.abs(ordered - model.hidden(params, jnp.asarray(tokens)))[:, 2:].max() > 1e-3


def test_form():
    """As the textbook has it, without biases; hidden states have root mean square 1."""
    model, params = tm.transformer(), tm.params().model
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert not any("bias" in name for name in names)
    x = params["embedding"]["embedding"][TOKENS[0]]
    block = params["blocks"]["block_0"]

    def norm(x, scale=1.0):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    query, key, value = np.split(norm(x, block["attention_norm"]["scale"]) @ block["attention_in"]["kernel"], 3, -1)
    read = np.zeros_like(x)
    for t in range(tm.WINDOW):
        for head in (slice(0, 8), slice(8, 16)):
            # The inner product of q at t and k at s turned by their positions is q · R(s − t) k.
            rate = 10_000.0 ** (-np.arange(4) / 4)
            scores = []
            for s in range(t + 1):
                cos, sin = np.cos((s - t) * rate), np.sin((s - t) * rate)
                first, second = np.split(np.asarray(key[s, head]), 2)
                scores.append(query[t, head] @ np.append(first * cos - second * sin, first * sin + second * cos))
            weights = np.exp(np.array(scores) / np.sqrt(8))
            read[t, head] = weights / weights.sum() @ value[: t + 1, head]
    x = x + read @ block["attention_out"]["kernel"]
    x = x + jax.nn.gelu(norm(x, block["inner_norm"]["scale"]) @ block["inner"]["kernel"]) @ block["outer"]["kernel"]
    h = model.hidden(params, TOKENS[:1])[0]
    assert dense.relative_error(h, norm(x)) < 1e-10
    assert np.allclose((h**2).mean(-1), 1, atol=1e-4)
    assert dense.relative_error(model.logits(params, h), h @ params["head"]["kernel"]) < 1e-12


@pytest.mark.parametrize("normalize", [True, False])
def test_dynamics(normalize):
    psi, params = nl.LatentDynamics(tm.WIDTH, normalize), tm.params().dynamics
    rng = np.random.default_rng(0)
    h, e = rng.normal(size=(2, 5, tm.WIDTH))
    x = np.concatenate([e, h], -1)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * params["norm"]["scale"]
    for layer in ("first", "second"):
        x = jax.nn.gelu(x @ params[layer]["kernel"])
    expected = h + x @ params["third"]["kernel"]
    if normalize:
        expected = expected / np.sqrt((expected**2).mean(-1, keepdims=True) + 1e-6)
    assert dense.relative_error(psi.apply(params, jnp.asarray(h), jnp.asarray(e)), expected) < 1e-12
    assert len(jax.tree.leaves(params)) == 4


def test_filter_with_the_exact_step_is_the_exact_filter():
    model = tm.HiddenMarkov()
    of_model = model.init(None)
    init, predict, update = nl.latent_filter(model, tm.ModelsOwn(model))
    params = nl.NextLatParams(of_model, of_model)
    row = tm.tokens(1, 200)[0]  # far beyond the window

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(h, row):
        return jax.lax.scan(lambda h, x: (update(params, h, x), predict(params, h)), h, row)

    laws = run(init(params, row[:1]), row[1:])[1]
    transition, emission = np.asarray(of_model["transition"]), np.asarray(of_model["emission"])
    belief = np.ones(3) / 3
    for t, token in enumerate(np.asarray(row)[:-1]):
        belief = belief * emission[:, token] / (belief @ emission[:, token]) @ transition
        assert np.allclose(np.exp(laws[t]), belief @ emission, atol=1e-12)


def test_equal_arguments_give_the_same_functions():
    again = nl.transformer(nl.TransformerConfig(width=tm.WIDTH, layers=1, heads=2, window=tm.WINDOW), tm.VOCABULARY)
    assert again is tm.transformer()
    assert nl.latent_filter(again, nl.LatentDynamics(tm.WIDTH)) is nl.latent_filter(again, tm.DYNAMICS)
