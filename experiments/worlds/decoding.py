"""What drafts by ψ are worth: tokens a call of the model, and time a token beside generation without drafts."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

import latenttrack as lt
from latenttrack.next_latent.decode import Rule

RULES: tuple[Rule, ...] = ("greedy", "coupled", "rejection")


def tokens_a_call(decoded: lt.Decoded, prompt: int) -> float:
    """Tokens beyond the prompt for each call of the model, the one over the prompt included."""
    return float(jnp.sum(decoded.length - prompt) / jnp.sum(decoded.calls))


def measure(
    model: Any,
    dynamics: Any,
    params: lt.NextLatParams,
    prompts: Array,
    key: Key[Array, ""],
    *,
    drafts: Sequence[int],
    confidences: Sequence[float],
    repeats: int = 5,
) -> list[dict[str, Any]]:
    """Every rule and draft length, and adaptive drafts of the longest: a row for each.

    Times are of whole calls of the compiled function, one way after the other in turn, ``repeats`` times over: their
    medians meet the same load of the machine.
    """
    prompt = prompts.shape[1]
    ways: dict[tuple, Callable[[], lt.Decoded]] = {
        ("generate", 0, 0.0): lambda: lt.generate(model, params.model, prompts, key=key),
        ("generate, greedy", 0, 0.0): lambda: lt.generate(model, params.model, prompts, temperature=0.0),
    }
    lengths = [*((draft, 0.0) for draft in drafts), *((max(drafts), confidence) for confidence in confidences)]
    for rule, (draft, confidence) in itertools.product(RULES, lengths):
        options = {"draft": draft, "confidence": confidence, "key": key}
        ways[rule, draft, confidence] = functools.partial(
            lt.speculate, model, dynamics, params, prompts, rule=rule, **options
        )
    decoded = {way: jax.block_until_ready(run()) for way, run in ways.items()}
    times: dict[tuple, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, run in ways.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            times[way].append(time.perf_counter() - began)
    rows = []
    for (rule, draft, confidence), came in decoded.items():
        made = float(jnp.sum(came.length - prompt))
        # Against generation of the same repeat: what else the machine does then meets both.
        ratios = np.divide(times["generate", 0, 0.0], times[rule, draft, confidence])
        rows.append(
            {
                "rows": len(prompts),
                "rule": rule,
                "draft": draft,
                "confidence": confidence,
                "tokens_a_call": tokens_a_call(came, prompt),
                "accepted": float(jnp.sum(came.accepted) / jnp.maximum(jnp.sum(came.drafted), 1)),
                "microseconds_a_token": 1e6 * statistics.median(times[rule, draft, confidence]) / made,
                "speedup": float(np.median(ratios)),
            }
        )
    return rows
