"""How many problems a trained model solves, and ψ alone from the prompt's end on; how near their laws are."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

import latenttrack as lt
from experiments.worlds import measures
from experiments.worlds.methods import Method
from experiments.worlds.world import Data


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _passes(
    model: Any, dynamics: Any, prompt: int, params: lt.NextLatParams, tokens: Int[Array, "L T"]
) -> dict[str, Array]:
    """Hidden states and laws before each token of the answer, by the model and by ψ; the answer that ψ chooses."""
    h = model.hidden(params.model, tokens)[:, prompt - 1 : -1]
    own = {"h": h, "said": jax.nn.log_softmax(model.logits(params.model, h))}
    if dynamics is None:
        return own
    _, predict, update = lt.latent_filter(model, dynamics)

    def roll(start: Array, answer: Array, *, given: bool) -> tuple[Array, Array, Array]:
        def body(h: Array, token: Array) -> tuple[Array, tuple[Array, Array, Array]]:
            said = predict(params, h)
            chosen = jnp.argmax(said).astype(token.dtype)
            return update(params, h, token if given else chosen), (h, said, chosen)

        return jax.lax.scan(body, start, answer)[1]

    rolled, rolled_said, _ = jax.vmap(functools.partial(roll, given=True))(h[:, 0], tokens[:, prompt:])
    *_, chosen = jax.vmap(functools.partial(roll, given=False))(h[:, 0], tokens[:, prompt:])
    return own | {"rolled": rolled, "rolled_said": rolled_said, "chosen": chosen}


def scores(
    model: Any, method: Method, params: lt.NextLatParams, solved: Callable[..., np.ndarray], size: int, data: Data
) -> dict[str, float]:
    """Of one seed, prompts of this size: what greedy decoding begins well and solves, divergences, rank, probes."""
    tokens = jnp.asarray(data.test)
    found = jax.device_get(_passes(model, measures.psi(model, method), size, params, tokens))
    by = {"": np.asarray(lt.generate(model, params.model, tokens[:, :size], temperature=0.0).tokens)}
    if method.rolls:
        by["_psi"] = np.concatenate([data.test[:, :size], found["chosen"]], axis=1)
    train, test = np.split(np.arange(len(data.test)), [len(data.test) // 2])
    probe = measures.fitted(found["h"][train], data.belief[train])
    came = {"rank": measures.effective_rank(found["h"].reshape(-1, found["h"].shape[-1]))}
    for name, decoded in by.items():
        came[f"solved{name}"] = float(np.mean(solved(decoded)))
        begun = np.take_along_axis(data.law[:, 0], decoded[:, size, None], axis=1) > 0
        came[f"begun{name}"] = float(np.mean(begun))
        said, h = (found["rolled_said"], found["rolled"]) if name else (found["said"], found["h"])
        came[f"kl{name}"] = float(np.mean(measures.divergence(data.law, said)))
        came[f"probe{name}"] = measures.explained(probe, h[test], data.belief[test])
    return came
