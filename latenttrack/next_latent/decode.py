"""Sampling from a model with a cache: token by token, or with drafts by ψ that the model verifies; exact either way."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from latenttrack.next_latent import token_checks
from latenttrack.next_latent.dynamics import LatentDynamics
from latenttrack.next_latent.interface import Cache, Decoded, Params, SequenceModel
from lowrank_filter.common import checks

Rule = Literal["greedy", "coupled", "rejection"]


def generate(
    model: SequenceModel,
    params: Params,
    prompt: Int[Array, "*B P"],
    *,
    length: int | None = None,
    key: Key[Array, "*keys"] | None = None,
    temperature: ArrayLike = 1.0,
    end: ArrayLike | None = None,
    prompt_length: Int[Array, "*B"] | None = None,
) -> Decoded:
    """Autoregressive sampling, one token a call of the model: x_t = argmax(log p + τ g(key, t)).

    g is Gumbel noise that depends on key and position alone, so this draws from softmax(logits / τ); τ = 0 is greedy.

    Args:
        model: static.
        params: of the model alone.
        prompt: at least one token, one row [P] or several [B, P].
        length: tokens in all, prompt included, at most the model's window (None: that); static.
        key: one, which several rows split, or one a row; not needed at a temperature of 0 that can be seen.
        temperature: τ ≥ 0, traced.
        end: the token that ends a sequence, traced; None: none does.
        prompt_length: tokens of each row's prompt, where shorter ones are padded on the right.

    Raises:
        TypeError: tokens are not integers, the key is not a typed one, the model lacks a function.
        ValueError: a prompt longer than ``length``, a length beyond the window, a token beyond the vocabulary, a
            negative temperature.

    Examples:
        >>> config = lt.TransformerConfig(width=8, layers=1, heads=2, window=6)
        >>> model = lt.transformer(config, vocabulary=5)
        >>> params = model.init(jax.random.key(0))
        >>> lt.generate(model, params, jnp.array([1, 2]), temperature=0.0).tokens.shape
        (6,)
    """
    token_checks.model(model)
    return _checked(
        *(model, None, (params, None), prompt, 0, False, 0.0, length, key, temperature, end, prompt_length),
    )


def speculate(
    model: SequenceModel,
    dynamics: LatentDynamics,
    params: tuple[Params, Params],
    prompt: Int[Array, "*B P"],
    *,
    draft: int,
    rule: Rule = "coupled",
    confidence: ArrayLike = 0.0,
    length: int | None = None,
    key: Key[Array, "*keys"] | None = None,
    temperature: ArrayLike = 1.0,
    end: ArrayLike | None = None,
    prompt_length: Int[Array, "*B"] | None = None,
) -> Decoded:
    """The same sequences in fewer calls: ψ drafts up to γ tokens, one call of the model verifies them all.

    From the model's h of the last position that it saw, ĥ ← ψ(ĥ, x) gives draft laws q_i = softmax(logits(ĥ)) and
    drafts d_1 … d_γ; the model's call on them gives p_1 … p_{γ+1}. The rules:

    - "greedy": d_i is kept while it is argmax p_i; the output equals ``generate(temperature=0)``.
    - "coupled": draft and target both take argmax(log p + τ g(key, position)), and d_i is kept while they agree
      (Daliri et al., 2408.07978). The output equals ``generate`` of the same key, token for token, whatever drafts.
    - "rejection": d_i ~ q_i is kept with probability min(1, p_i(d_i) / q_i(d_i)); the first that is not is drawn from
      (p_i − q_i)⁺ instead (Leviathan et al., 2211.17192). The output has the law of ``generate``, not its draws; it
      keeps more drafts than coupling does.

    "Equal" is up to ties closer than rounding, since a call on γ + 1 tokens rounds otherwise than one on one token.
    Rows go at their own pace. Each goes back by position alone, and none reads beyond ``length``.

    With ``confidence`` c, draft i is put before the model only if max q_i ≥ c, and all before it were. That depends on
    d_1 … d_{i−1} and not on d_i. It must not: were drafts left out where q_i(d_i) is small, those that are left would
    not be drawn from q_i, and where the draft is left out p_i would be drawn from although a d_i had been seen and
    turned down; tokens with a small q_i would come out too seldom. For the same reason a draft past the end of the
    sequence may be left out: whether d_{i−1} ended it is known before d_i is drawn.

    Args:
        draft: γ ≥ 1, static.
        rule: static.
        confidence: c in [0, 1], traced; 0 uses every draft.
        model, dynamics: static; params is the pair of theirs.
        prompt, length, key, temperature, end, prompt_length: as for :func:`latenttrack.generate`; "greedy" needs no
            key and does not look at the temperature, "rejection" needs one above 0.

    Raises:
        TypeError, ValueError: as there; γ < 1, an unknown rule, a confidence outside [0, 1], a prompt that leaves the
            window no room.

    Examples:
        >>> config = lt.TransformerConfig(width=8, layers=1, heads=2, window=6)
        >>> model = lt.transformer(config, vocabulary=5)
        >>> params = model.init(jax.random.key(0))
        >>> psi = lt.LatentDynamics(width=8)
        >>> pair = lt.NextLatParams(params, psi.init(jax.random.key(1)))
        >>> found = lt.speculate(model, psi, pair, jnp.array([1, 2]), draft=2, rule="greedy")
        >>> plain = lt.generate(model, params, jnp.array([1, 2]), temperature=0.0)
        >>> bool((found.tokens == plain.tokens).all())
        True
    """
    token_checks.model(model)
    token_checks.dynamics(dynamics)
    token_checks.pair(params)
    checks.count("draft", draft, minimum=1)
    checks.choice("rule", rule, ("greedy", "coupled", "rejection"))
    checks.within("confidence", confidence, 0.0, 1.0, "values in [0, 1]")
    temperature = 0.0 if rule == "greedy" else temperature
    if rule == "rejection":
        checks.within("temperature", temperature, np.nextafter(0, 1), np.inf, "positive values")
    return _checked(
        *(model, dynamics, params, prompt, draft, rule == "rejection", confidence),
        *(length, key, temperature, end, prompt_length),
    )


def _checked(
    model: SequenceModel,
    dynamics: LatentDynamics | None,
    params: tuple[Params, Params],
    prompt: Any,
    draft: int,
    rejection: bool,
    confidence: ArrayLike,
    length: int | None,
    key: Any,
    temperature: ArrayLike,
    end: ArrayLike | None,
    prompt_length: Any,
) -> Decoded:
    window, vocabulary = getattr(model, "window", None), getattr(model, "vocabulary", None)
    prompt = token_checks.tokens("prompt", prompt, vocabulary, window, (1, 2))
    length = window if length is None else length
    token_checks.length("length", length, window, least=prompt.shape[-1])
    checks.within("temperature", temperature, 0.0, np.inf, "non-negative values")
    rows = prompt.shape[:-1]
    if key is None and not isinstance(temperature, Tracer) and float(jnp.asarray(temperature)) == 0:
        key = jax.random.key(0)  # not looked at
    key = checks.key("key", key, many=prompt.ndim == 2)
    if key.ndim != len(rows):
        key = jax.random.split(key, rows[0])
    checks.shape("key", key, rows, "give one key, or one a row")
    end = jnp.asarray(-1) if end is None else token_checks.tokens("end", end, vocabulary, axes=(0,))
    if prompt_length is None:
        prompt_length = jnp.full(rows, prompt.shape[-1])
    prompt_length = token_checks.prompt_length(prompt_length, prompt.shape)
    knobs = _Knobs(jnp.asarray(confidence), jnp.asarray(temperature), end)
    decoded = _decode(
        *(model, dynamics, rejection, draft, length, params, knobs),
        *(prompt.reshape(-1, prompt.shape[-1]), prompt_length.reshape(-1), key.reshape(-1)),
    )
    return jax.tree.map(lambda leaf: leaf.reshape(*rows, *leaf.shape[1:]), decoded)


class _Knobs(NamedTuple):
    """What is traced."""

    confidence: Float[Array, ""]
    temperature: Float[Array, ""]
    end: Int[Array, ""]


class _Row(NamedTuple):
    """One sequence on its way: the model has seen all tokens but the last, and hidden is its h of the one before."""

    decoded: Decoded
    hidden: Float[Array, " width"]
    cache: Cache
    finished: Bool[Array, ""]


class _Draft(NamedTuple):
    """Drafts so far, the logits that they were drawn from, and the state of ψ after the last."""

    used: Int[Array, ""]
    going: Bool[Array, ""]
    tokens: Int[Array, " draft"]
    logits: Float[Array, "draft V"]
    rolled: Float[Array, " width"]
    last: Int[Array, ""]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _decode(
    model: SequenceModel,
    dynamics: LatentDynamics | None,
    rejection: bool,
    draft: int,
    length: int,
    params: tuple[Params, Params],
    knobs: _Knobs,
    prompts: Int[Array, "B P"],
    prompt_lengths: Int[Array, " B"],
    keys: Key[Array, " B"],
) -> Decoded:
    of_model, of_dynamics = params
    chunk, steps = min(draft + 1, length), jnp.arange(draft + 1)

    def start(prompt: Array, taken: Array, key: Array) -> _Row:
        cache = model.initial_cache(of_model, 1, length)
        h, cache = model.extend(of_model, cache, prompt[None], 0)
        hidden = h[0, taken - 1]
        first = _choose(model.logits(of_model, hidden), knobs.temperature, key, taken).astype(prompt.dtype)
        # Where the prompt fills all of the length, the token falls outside and is dropped.
        tokens = jnp.zeros(length + draft, prompt.dtype).at[: len(prompt)].set(prompt).at[taken].set(first)
        came = jnp.minimum(taken + 1, length)
        none = jnp.zeros_like(taken)
        finished = (came >= length) | (first == knobs.end)
        return _Row(Decoded(tokens, came, none + 1, none, none), hidden, cache, finished)

    def drafts(dynamics: LatentDynamics, row: _Row, key: Array) -> _Draft:
        at = row.decoded.length
        room = jnp.where(row.finished, 0, jnp.minimum(draft, length - 1 - at))

        def more(state: _Draft) -> Array:
            return state.going & (state.used < room)

        def extend(state: _Draft) -> _Draft:
            rolled = dynamics.apply(of_dynamics, state.rolled, model.embed(of_model, state.last))
            logits = model.logits(of_model, rolled)
            going = jnp.max(jax.nn.softmax(logits)) >= knobs.confidence
            token = _choose(logits, knobs.temperature, key, at + state.used).astype(state.last.dtype)
            return _Draft(
                state.used + going,
                going & (token != knobs.end),
                state.tokens.at[state.used].set(token),
                state.logits.at[state.used].set(logits),
                *(rolled, token),
            )

        last = row.decoded.tokens[at - 1]
        logits = jax.eval_shape(model.logits, of_model, row.hidden)
        empty = jnp.zeros((draft, *logits.shape), logits.dtype)
        begin = _Draft(jnp.zeros_like(at), jnp.asarray(True), jnp.zeros(draft, last.dtype), empty, row.hidden, last)
        return jax.lax.while_loop(more, extend, begin)

    def verify(proposed: _Draft, logits: Float[Array, "n V"], key: Array, at: Array) -> tuple[Array, Array]:
        """How many drafts are kept, and the tokens that come: those, then one of the model's."""
        used = steps[:-1] < proposed.used
        if not rejection:
            chosen = jax.vmap(_choose, (0, None, None, 0))(logits, knobs.temperature, key, at + steps)
            return _prefix(used & (chosen[:-1] == proposed.tokens)), chosen
        p = jax.nn.softmax(logits / knobs.temperature)
        q = jnp.where(used[:, None], jax.nn.softmax(proposed.logits / knobs.temperature), 0)
        among = steps[:-1], proposed.tokens
        uniform = jax.vmap(lambda step: jax.random.uniform(_stream(key, at + step, 1), (), p.dtype))(steps[:-1])
        kept = _prefix(used & (uniform * q[among] < p[among]))
        law = p[kept]
        left = jnp.maximum(law - jnp.pad(q, ((0, 1), (0, 0)))[kept], 0)
        left = jnp.where(jnp.any(left > 0), left, law)  # p = q but for rounding: nothing is left
        noise = jax.random.gumbel(_stream(key, at + kept, 2), left.shape, left.dtype)
        drawn = jnp.argmax(jnp.log(left) + noise)
        return kept, jnp.where(steps < kept, jnp.pad(proposed.tokens, (0, 1)), drawn)

    def advance(row: _Row, key: Array) -> _Row:
        so_far, at = row.decoded, row.decoded.length
        tokens, proposed = so_far.tokens, None
        if dynamics is not None:
            proposed = drafts(dynamics, row, key)
            tokens = jax.lax.dynamic_update_slice(tokens, proposed.tokens, (at,))
        # Near the end of the window the chunk starts earlier and computes again what the cache has.
        begin = jnp.minimum(at - 1, length - chunk)
        h, cache = model.extend(of_model, row.cache, jax.lax.dynamic_slice(tokens, (begin,), (chunk,))[None], begin)
        h = h[0][jnp.minimum(at - 1 - begin + steps, chunk - 1)]
        logits = model.logits(of_model, h)
        if proposed is None:
            kept, new, used = 0, _choose(logits[0], knobs.temperature, key, at)[None], 0
        else:
            (kept, new), used = verify(proposed, logits, key, at), proposed.used
        ended = (new == knobs.end) & (steps <= kept)
        came = jnp.where(jnp.any(ended), jnp.argmax(ended), kept) + 1
        tokens = jax.lax.dynamic_update_slice(tokens, new.astype(tokens.dtype), (at,))
        after = Decoded(
            tokens, at + came, so_far.calls + 1, so_far.drafted + used, so_far.accepted + jnp.minimum(kept, came)
        )
        # The cache needs no choice: what a finished row writes is what is there, or beyond its end.
        decoded = jax.tree.map(lambda old, new: jnp.where(row.finished, old, new), so_far, after)
        return _Row(decoded, h[came - 1], cache, row.finished | jnp.any(ended) | (decoded.length >= length))

    rows = jax.vmap(start)(prompts, prompt_lengths, keys)
    rows = jax.lax.while_loop(lambda rows: ~jnp.all(rows.finished), lambda rows: jax.vmap(advance)(rows, keys), rows)
    beyond = jnp.arange(length) >= rows.decoded.length[:, None]
    tokens = jnp.where(beyond, jnp.maximum(knobs.end, 0), rows.decoded.tokens[:, :length])
    return rows.decoded._replace(tokens=tokens.astype(prompts.dtype))


def _choose(logits: Float[Array, " V"], temperature: Array, key: Array, position: Array) -> Int[Array, ""]:
    """argmax(logits + τ g(key, position))."""
    noise = jax.random.gumbel(_stream(key, position, 0), logits.shape, logits.dtype)
    return jnp.argmax(logits + temperature * noise)


def _stream(key: Array, position: Array, which: int) -> Array:
    """Noise of a position, apart for drawing a token, for keeping a draft, and for drawing in its place.

    A position's noise may serve several calls, but all that is decided before the call that settles it, settles
    positions before it and depends on their noise alone.
    """
    return jax.random.fold_in(jax.random.fold_in(key, position), which)


def _prefix(kept: Bool[Array, " n"]) -> Int[Array, ""]:
    """How many are True before the first that is not."""
    return jnp.sum(jnp.cumprod(kept))
