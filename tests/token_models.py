"""Small models of token sequences for the tests: a transformer, an exact filter, a table of hidden states."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latenttrack import next_latent as nl

VOCABULARY, WINDOW, WIDTH = 4, 14, 16


@functools.cache
def transformer(positions="rotary", layers=1):
    return nl.transformer(
        nl.TransformerConfig(width=WIDTH, layers=layers, heads=2, window=WINDOW, positions=positions), VOCABULARY
    )


DYNAMICS = nl.LatentDynamics(WIDTH)


def wide(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, float)), tree)


@functools.cache
def params(positions="rotary", layers=1, seed=0):
    """In float64, drawn in float32."""
    return wide(_drawn(transformer(positions, layers))(jax.random.key(seed)))


@functools.cache
def _drawn(model):
    return jax.jit(lambda key: nl.NextLatParams(*map(lambda f, k: f.init(k), (model, DYNAMICS), jax.random.split(key))))


def tokens(rows, length, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCABULARY, (rows, length)))


class Table(NamedTuple):
    """h of each position as parameters of their own, so that a gradient tells positions apart."""

    def init(self, key):
        raise NotImplementedError

    def hidden(self, params, tokens):
        return params["h"]

    def embed(self, params, tokens):
        return params["e"][tokens]

    def logits(self, params, h):
        return h @ params["head"]

    initial_cache = extend = init


class Linear(NamedTuple):
    """ψ(h, x) = tanh(h A + e B)."""

    def apply(self, params, h, embedding):
        return jnp.tanh(h @ params["A"] + embedding @ params["B"])


class HiddenMarkov(NamedTuple):
    """The exact filter of a hidden Markov model: h_t = p(state_{t+1} | x_0 … x_t), and its own ψ."""

    window: int = WINDOW

    def init(self, key):
        rng = np.random.default_rng(0)
        return {
            "transition": jnp.asarray(rng.dirichlet(0.5 * np.ones(3), 3)),
            "emission": jnp.asarray(rng.dirichlet(0.7 * np.ones(VOCABULARY), 3)),
            "start": jnp.ones(3) / 3,
        }

    def embed(self, params, tokens):
        return params["emission"].T[tokens]

    def logits(self, params, h):
        return jnp.log(h @ params["emission"])

    def apply(self, params, h, embedding):
        joint = h * embedding
        return joint / jnp.sum(joint, -1, keepdims=True) @ params["transition"]

    def initial_cache(self, params, batch, length):
        return jnp.zeros((batch, length + 1, 3)).at[:, 0].set(params["start"])

    def extend(self, params, cache, tokens, position):
        def step(h, likelihood):
            h = self.apply(params, h, likelihood)
            return h, h

        first = jax.lax.dynamic_index_in_dim(cache, position, 1, keepdims=False)
        h = jnp.moveaxis(jax.lax.scan(step, first, jnp.moveaxis(self.embed(params, tokens), 1, 0))[1], 0, 1)
        return h, jax.lax.dynamic_update_slice(cache, h, (0, position + 1, 0))

    def hidden(self, params, tokens):
        return self.extend(params, self.initial_cache(params, *tokens.shape), tokens, 0)[0]


class ModelsOwn(NamedTuple):
    """An exact model's own step as ψ; its parameters are the model's."""

    model: HiddenMarkov

    def apply(self, params, h, embedding):
        return self.model.apply(params, h, embedding)
