"""Bad calls: one clear error each, that says what was expected, what came and what to do."""

import functools
import inspect

import calls
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_models as tm

from latenttrack import next_latent as nl

MODEL, KEY = tm.transformer(), jax.random.key(0)
TOKENS = np.zeros((2, 6), int)


# Without the run-time checks of annotations that the tests add.
bare = inspect.unwrap


@functools.cache
def params():
    shapes = jax.eval_shape(lambda key: nl.NextLatParams(MODEL.init(key), tm.DYNAMICS.init(key)), KEY)
    return jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes)


def config(**options):
    return nl.TransformerConfig(**{"width": 16, "heads": 2, **options})


def loss(tokens=TOKENS, model=MODEL, dynamics=tm.DYNAMICS, params=params, **options):
    return bare(nl.nextlat_loss)(model, dynamics, params(), tokens, **{"horizon": 2, **options})


def generate(prompt=TOKENS, model=MODEL, of_model=None, **options):
    return bare(nl.generate)(model, of_model or params().model, prompt, **{"key": KEY, **options})


def speculate(prompt=TOKENS, dynamics=tm.DYNAMICS, params=params, **options):
    return bare(nl.speculate)(MODEL, dynamics, params(), prompt, **{"draft": 2, "key": KEY, **options})


def extend(position=0, size=3, length=4, tokens=None):
    of_model = params().model
    tokens = np.zeros((1, size), int) if tokens is None else tokens
    return bare(MODEL.extend)(of_model, MODEL.initial_cache(of_model, 1, length), tokens, position)


CASES = {
    "width": (lambda: config(width=18, heads=4), ValueError, "width: expected a multiple of 8 .* got 18"),
    "layers": (lambda: config(layers=0), ValueError, "layers: expected.*>= 1, got 0"),
    "positions": (lambda: config(positions="sine"), ValueError, "positions: expected one of.*got 'sine'"),
    "config": (lambda: nl.transformer({}, 4), TypeError, "config: expected a TransformerConfig, got dict"),
    "vocabulary": (lambda: nl.transformer(config(), 0), ValueError, "vocabulary: expected.*>= 1, got 0"),
    "psi: width": (lambda: nl.LatentDynamics(2.5), ValueError, "width: expected.*integer.*got 2.5"),
    "psi: flag": (lambda: nl.LatentDynamics(4, 1), ValueError, "normalize: expected.*True or False, got 1"),
    "psi: h": (
        lambda: bare(nl.LatentDynamics.apply)(tm.DYNAMICS, params().dynamics, jnp.zeros(3), jnp.zeros(16)),
        ValueError,
        r"h: expected shape \(…, 16\), got \(3,\)",
    ),
    "init: key": (lambda: bare(MODEL.init)(0), TypeError, "key: expected a jax.random.key"),
    "hidden: one row": (
        lambda: bare(MODEL.hidden)(params().model, TOKENS[0]),
        ValueError,
        r"tokens: expected shape \(B, T\).*got \(6,\)",
    ),
    "hidden: pair": (
        lambda: bare(MODEL.hidden)(params(), TOKENS),
        ValueError,
        "params: expected the structure.*same model",
    ),
    "hidden: window": (
        lambda: bare(MODEL.hidden)(params().model, np.zeros((1, 15), int)),
        ValueError,
        "tokens: expected at most 14 tokens, the model's window, got 15; cut",
    ),
    "extend: position": (lambda: extend(2), ValueError, "position: expected 0 … 1 for 3 tokens.* 4, got 2"),
    "extend: fraction": (lambda: extend(0.5), TypeError, "position: expected one integer, got 0.5"),
    "extend: text": (lambda: extend("0"), TypeError, "position: expected one integer, got '0'"),
    "extend: tokens": (lambda: extend(tokens="words"), TypeError, "tokens: expected integers"),
    "extend: rows": (lambda: extend(tokens=TOKENS[:, :3]), ValueError, r"tokens: expected shape \(1, 3\).*the cache"),
    "cache: length": (lambda: extend(length=15), ValueError, "length: expected 1 … 14, the model's window, got 15"),
    "loss: floats": (lambda: loss(TOKENS + 0.5), TypeError, "tokens: expected integers, got float"),
    "loss: unknown token": (lambda: loss(TOKENS + 4), ValueError, "tokens: expected tokens 0 … 3, got 4 … 4"),
    "loss: negative token": (lambda: loss(TOKENS - 1), ValueError, "tokens: expected tokens 0 … 3, got -1 … -1"),
    "loss: short": (lambda: loss(horizon=6), ValueError, "tokens: expected at least 7.*horizon 6, got 6"),
    "loss: horizon": (lambda: loss(horizon=-1), ValueError, "horizon: expected.*>= 0, got -1"),
    "loss: traced horizon": (
        lambda: jax.jit(lambda d: loss(horizon=d))(2),
        ValueError,
        "horizon: expected.*static integer.*mark it static",
    ),
    "loss: weight": (lambda: loss(latent=-1.0), ValueError, "latent: expected non-negative values, got -1"),
    "loss: mask": (
        lambda: loss(token_mask=np.ones((2, 5), bool)),
        ValueError,
        r"token_mask: expected shape \(2, 6\), got \(2, 5\)",
    ),
    "loss: fractions": (
        lambda: loss(latent_mask=np.full((2, 6), 0.5)),
        ValueError,
        "latent_mask: expected booleans",
    ),
    "loss: detach": (lambda: loss(detach=1), ValueError, "detach: expected.*got 1"),
    "loss: params": (lambda: loss(params=lambda: params().model), TypeError, "params: expected the pair.*got dict"),
    "loss: model": (
        lambda: loss(model=MODEL.hidden),
        TypeError,
        "model: expected functions init, hidden.*got function",
    ),
    "loss: dynamics": (lambda: loss(dynamics=None), TypeError, "dynamics: expected.*apply.*got NoneType"),
    "filter: model": (lambda: nl.latent_filter(None, tm.DYNAMICS), TypeError, "model: expected.*got NoneType"),
    "filter: batch": (
        lambda: bare(nl.latent_filter(MODEL, tm.DYNAMICS).init)(params(), TOKENS),
        ValueError,
        r"prompt: expected shape \(T,\).*got \(2, 6\)",
    ),
    "generate: long prompt": (
        lambda: generate(np.zeros(15, int)),
        ValueError,
        "prompt: expected at most 14 tokens, the model's window, got 15; cut",
    ),
    "generate: length": (lambda: generate(length=15), ValueError, "length: expected 6 … 14.*got 15"),
    "generate: short length": (lambda: generate(length=5), ValueError, "length: expected 6 … 14.*got 5"),
    "generate: empty prompt": (lambda: generate(np.zeros(0, int)), ValueError, "prompt: expected.*not empty"),
    "generate: floats": (lambda: generate(np.zeros(3)), TypeError, "prompt: expected integers, got float"),
    "generate: temperature": (lambda: generate(temperature=-1.0), ValueError, "temperature: expected non-neg.*got -1"),
    "generate: no key": (lambda: generate(key=None), TypeError, "key: expected a jax.random.key"),
    "generate: keys": (lambda: generate(key=jax.random.split(KEY, 3)), ValueError, r"key: expected shape \(2,\)"),
    "generate: end": (lambda: generate(end=4), ValueError, "end: expected tokens 0 … 3, got 4"),
    "generate: prompt lengths": (
        lambda: generate(prompt_length=np.asarray([7, 1])),
        ValueError,
        "prompt_length: expected 1 … 6, got 1 … 7",
    ),
    "speculate: draft": (lambda: speculate(draft=0), ValueError, "draft: expected.*>= 1, got 0"),
    "speculate: rule": (lambda: speculate(rule="beam"), ValueError, "rule: expected one of 'greedy'.*got 'beam'"),
    "speculate: confidence": (
        lambda: speculate(confidence=1.5),
        ValueError,
        r"confidence: expected.*\[0, 1\], got 1.5",
    ),
    "speculate: zero temperature": (
        lambda: speculate(rule="rejection", temperature=0.0),
        ValueError,
        "temperature: expected positive values, got 0",
    ),
    "speculate: params": (lambda: speculate(params=lambda: params().model), TypeError, "params: expected the pair"),
    "speculate: width": (
        lambda: speculate(dynamics=nl.LatentDynamics(8)),
        ValueError,
        "params.*: expected.*same dynamics",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_call(name):
    call, kind, message = CASES[name]
    with pytest.raises(kind, match=f"(?s){message}") as caught:
        call()
    assert calls.PARTS.match(str(caught.value))
    assert not calls.INTERNAL.search(str(caught.value))
