"""Drafting changes what a sequence costs and nothing else."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import suites
import token_models as tm

from latenttrack import next_latent as nl
from latenttrack.next_latent import decode

pytestmark = pytest.mark.usefixtures("x64")
MODEL, PROMPTS, KEY = tm.transformer(), tm.tokens(1000, 2), jax.random.key(7)
END = 3


@functools.cache
def trained():
    """On sequences that repeat with a period of three, so that drafts are worth something."""
    rng = np.random.default_rng(0)
    periods = rng.integers(0, 3, (512, 3))
    data = np.tile(periods, (1, 5))[:, : tm.WINDOW]
    data[np.arange(512), rng.integers(6, tm.WINDOW, 512)] = END
    optimizer = optax.adam(1e-2)

    def step(carry, _):
        params, state = carry
        slope = jax.grad(lambda p: nl.nextlat_loss(MODEL, tm.DYNAMICS, p, jnp.asarray(data), horizon=2)[0])(params)
        changes, state = optimizer.update(slope, state)
        return (optax.apply_updates(params, changes), state), None

    start = tm.params()
    return jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), None, 60)[0][0])(start)


def networks(name):
    return trained() if name == "trained" else tm.params()


def by_hand(params, temperature, end):
    """No cache, no loop on the device: the whole sequence again for each token."""
    tokens, keys = np.zeros((len(PROMPTS), tm.WINDOW), int), jax.random.split(KEY, len(PROMPTS))
    tokens[:, :2], length = PROMPTS, np.full(len(PROMPTS), tm.WINDOW)

    @jax.jit
    def scores(tokens, position):
        def noise(key):
            key = jax.random.fold_in(jax.random.fold_in(key, position), 0)
            return jax.random.gumbel(key, (tm.VOCABULARY,), float)

        logits = MODEL.logits(params, MODEL.hidden(params, tokens)[:, position - 1])
        return logits + temperature * jax.vmap(noise)(keys)

    for position in range(2, tm.WINDOW):
        tokens[:, position] = np.argmax(scores(tokens, position), -1)
        ends = (tokens[:, position] == end) & (length == tm.WINDOW)
        length = np.where(ends, position + 1, length)
    return np.where(np.arange(tm.WINDOW) < length[:, None], tokens, max(end, 0)), length


def assert_equal_to_generation(network, temperature, drafts, ends):
    params = networks(network)
    for end in ends:
        plain = nl.generate(MODEL, params.model, PROMPTS, key=KEY, temperature=temperature, end=end)
        tokens, length = by_hand(params.model, temperature, -1 if end is None else end)
        assert np.array_equal(plain.tokens, tokens) and np.array_equal(plain.length, length)
        assert jnp.all(plain.calls == plain.length - 2)
        assert not jnp.any(plain.drafted)
        rule = {"rule": "coupled", "temperature": temperature} if temperature else {"rule": "greedy"}
        for draft, confidence in itertools.product(drafts, (0.0, 0.5)):
            came = nl.speculate(
                *(MODEL, tm.DYNAMICS, params, PROMPTS), draft=draft, confidence=confidence, key=KEY, end=end, **rule
            )
            assert np.array_equal(came.tokens, tokens) and np.array_equal(came.length, length)
            assert jnp.all(came.accepted <= came.drafted) and jnp.all(came.drafted <= draft * came.calls)
            # Each call gives its kept drafts and one token more, but for one whose last draft ended the sequence.
            more = came.calls + came.accepted - (came.length - 2)
            assert jnp.all((more == 0) | ((more == 1) & (end is not None)))
            if network == "trained" and confidence == 0 and draft == 3:
                assert came.calls.sum() < 0.8 * plain.calls.sum()


@pytest.mark.parametrize("temperature", suites.fast([0.0, 1.0], 1.0))
def test_speculation_is_generation_token_for_token(temperature):
    assert_equal_to_generation("random", temperature, [3], [END])


@pytest.mark.slow
@pytest.mark.parametrize("network", ["random", "trained"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_so_it_is_for_every_draft_and_network(network, temperature):
    assert_equal_to_generation(network, temperature, [1, 3, 6], [None, END])


@pytest.mark.parametrize("rule", suites.fast(["greedy", "coupled", "rejection"], "greedy"))
def test_an_oracle_is_always_accepted(rule):
    model = tm.HiddenMarkov()
    of_model = model.init(None)
    came = nl.speculate(
        *(model, tm.ModelsOwn(model), nl.NextLatParams(of_model, of_model), PROMPTS),
        **{"draft": 3, "rule": rule, "key": KEY, "end": END},
    )
    assert came.drafted.sum() > 1000
    assert jnp.all(came.accepted == came.drafted)
    assert jnp.all(came.calls <= 1 + (came.length - 3 + 3) // 4)


def enumerated(params, temperature, length):
    """Probabilities of all continuations of one prompt to ``length``, where END ends a sequence."""
    every = np.array(list(itertools.product(range(tm.VOCABULARY), repeat=length - 2)))
    tokens = np.concatenate([np.tile(PROMPTS[:1], (len(every), 1)), every], 1)
    law = jax.nn.log_softmax(MODEL.logits(params, MODEL.hidden(params, jnp.asarray(tokens))) / temperature)
    steps = np.take_along_axis(np.asarray(law)[:, 1:-1], every[..., None], -1)[..., 0]
    ended = np.cumsum(every == END, 1) - (every == END) > 0
    outcomes = {}
    for row, step, over in zip(every, steps, ended, strict=True):
        if not (over & (row != END)).any():  # beyond the end there is one filling
            outcomes[tuple(row)] = np.exp(step[~over].sum())
    return outcomes


def p_values(params, length, draws, keys, **options):
    """χ² of drawn sequences against their enumerated probabilities, one p-value per key."""
    outcomes = enumerated(params.model, options["temperature"], length)
    assert abs(sum(outcomes.values()) - 1) < 1e-9
    prompts = jnp.tile(PROMPTS[:1], (draws, 1))
    for key in keys:
        came = nl.speculate(MODEL, tm.DYNAMICS, params, prompts, length=length, key=key, end=END, **options)
        drawn = [tuple(row) for row in np.asarray(came.tokens)[:, 2:].tolist()]
        counts = np.array([drawn.count(outcome) for outcome in outcomes])
        assert counts.sum() == draws
        expected = draws * np.array(list(outcomes.values()))
        rare = expected < 5
        counts, expected = (np.append(part[~rare], part[rare].sum()) for part in (counts, expected))
        yield scipy.stats.chisquare(counts, expected).pvalue


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.0, 0.45])
def test_rejection_has_the_law_of_the_model(confidence):
    """A drafter that is wrong, drafts of two and calls that start anywhere, ends inside drafts."""
    params = networks("random")
    options = {"draft": 3, "rule": "rejection", "temperature": 0.8, "confidence": confidence}
    came = list(p_values(params, 6, 2000, jax.random.split(jax.random.key(1), 10), **options))
    assert min(came) > 1e-3 and max(came) < 0.999, came


def test_a_biased_rule_would_be_seen():
    """The same test on draws at another temperature."""
    params = networks("random")
    outcomes = enumerated(params.model, 0.8, 6)
    other = enumerated(params.model, 0.95, 6)
    draws = np.random.default_rng(0).multinomial(2000, list(other.values()))
    assert scipy.stats.chisquare(draws, 2000 * np.array(list(outcomes.values()))).pvalue < 1e-3


def test_rows_of_their_own_and_shorter_prompts():
    params, prompts = networks("random"), tm.tokens(2, 5, seed=1)
    lengths, keys = jnp.asarray([5, 2]), jax.random.split(KEY, 2)
    options = {"draft": 3, "rule": "coupled"}
    together = nl.speculate(MODEL, tm.DYNAMICS, params, prompts, key=keys, prompt_length=lengths, **options)
    for row in range(2):
        alone = nl.generate(MODEL, params.model, prompts[row, : lengths[row]], key=keys[row])
        assert alone.tokens.shape == (tm.WINDOW,) and alone.length.shape == ()
        assert jnp.array_equal(alone.tokens, together.tokens[row])


@pytest.mark.slow
def test_lengths_at_the_edge():
    params = networks("random")
    for length in (2, 3, 4):
        plain = nl.generate(MODEL, params.model, PROMPTS[:9], key=KEY, length=length)
        came = nl.speculate(MODEL, tm.DYNAMICS, params, PROMPTS[:9], key=KEY, length=length, draft=3)
        assert jnp.array_equal(came.tokens, plain.tokens) and came.tokens.shape == (9, length)
        assert jnp.all(came.length == length) and jnp.all(plain.length == length)


def test_compiled_once_and_over_seeds():
    """A second call compiles nothing, also with other numbers; parameters of several seeds are a vmap."""
    options = {"draft": 3, "rule": "rejection"}
    before = decode._decode._cache_size()
    for seed, confidence, temperature in ((0, 0.2, 0.5), (1, 0.4, 1.5)):
        params = tm.params(seed=seed)
        nl.speculate(
            *(MODEL, tm.DYNAMICS, params, PROMPTS[:5]),
            key=KEY,
            confidence=confidence,
            temperature=temperature,
            **options,
        )
    assert decode._decode._cache_size() <= before + 1
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), tm.params(), tm.params(seed=1))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def many(params):
        draw = functools.partial(nl.speculate, MODEL, tm.DYNAMICS, prompt=PROMPTS[:5], key=KEY, **options)
        return jax.vmap(lambda params: draw(params=params))(params)

    came = many(both)
    for seed in (0, 1):
        alone = nl.speculate(MODEL, tm.DYNAMICS, tm.params(seed=seed), PROMPTS[:5], key=KEY, **options)
        for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(alone), strict=True):
            assert jnp.array_equal(a[seed], b)
