"""How near a trained model is to what is exact: its laws, ψ's rollouts far past the window, its hidden states."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

import latenttrack as lt
from experiments.worlds import navigation
from experiments.worlds.methods import Method, asked
from experiments.worlds.world import LONGEST, Data, World

MULTIPLES = (1, 2, 4, 8)
"""Windows after which ψ's rollout is looked at, over the last of them."""


def divergence(law: Float[np.ndarray, "*shape V"], said: Float[np.ndarray, "*shape V"]) -> Float[np.ndarray, "*shape"]:
    """KL(law ‖ exp said), in nats."""
    return np.sum(np.where(law > 0, law * (np.log(np.where(law > 0, law, 1)) - said), 0), axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _passes(model: Any, dynamics: Any, params: lt.NextLatParams, tokens: Int[Array, "L long"]) -> dict[str, Array]:
    """Hidden states and laws of the model over the first window, and of ψ alone from its first token on."""
    window = tokens.shape[1] // LONGEST
    h = model.hidden(params.model, tokens[:, :window])
    own = {"h": h, "said": jax.nn.log_softmax(model.logits(params.model, h))}
    if dynamics is None:
        return own
    init, predict, update = lt.latent_filter(model, dynamics)

    def roll(row: Array) -> tuple[Array, Array]:
        def body(h: Array, token: Array) -> tuple[Array, tuple[Array, Array]]:
            h = update(params, h, token)
            return h, (h, predict(params, h))

        first = init(params, row[:1])
        after, said = jax.lax.scan(body, first, row[1:])[1]
        return jnp.concatenate([first[None], after]), jnp.concatenate([predict(params, first)[None], said])

    rolled, said = jax.vmap(roll)(tokens)
    return own | {"rolled": rolled, "rolled_said": said}


def psi(model: Any, method: Method) -> lt.LatentDynamics | None:
    """A method's ψ, if it has one."""
    return lt.LatentDynamics(model.config.width, method.normalize) if method.rolls else None


def scores(model: Any, method: Method, params: lt.NextLatParams, data: Data) -> dict[str, float]:
    """Of one seed: divergences of laws, rank, and what a linear probe finds of the belief."""
    window = data.test.shape[1] // LONGEST
    found = jax.device_get(_passes(model, psi(model, method), params, jnp.asarray(data.test)))
    came = {"kl": float(np.mean(divergence(data.law[:, :window], found["said"])))}
    if method.rolls:
        far = np.asarray(divergence(data.law, found["rolled_said"]))
        came |= {f"kl_{m}x": float(far[:, (m - 1) * window : m * window].mean()) for m in MULTIPLES}
    flat = found["h"].reshape(-1, found["h"].shape[-1])
    came["rank"] = effective_rank(flat)
    train, test = np.split(np.arange(len(data.test)), [len(data.test) // 2])
    probe = fitted(found["h"][train], data.belief[train, :window])
    came["probe"] = explained(probe, found["h"][test], data.belief[test, :window])
    if method.rolls:
        last = slice(-window, None)
        came["probe_8x"] = explained(probe, found["rolled"][test, last], data.belief[test, last])
    return came


def effective_rank(rows: Float[np.ndarray, "N D"]) -> float:
    """exp of the entropy of the covariance's eigenvalues as shares (Roy and Vetterli, 2007)."""
    values = np.linalg.eigvalsh(np.cov(rows.astype(np.float64), rowvar=False))
    shares = np.clip(values, 1e-15, None) / np.clip(values, 1e-15, None).sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def fitted(h: np.ndarray, belief: np.ndarray) -> Float[np.ndarray, "D+1 K"]:
    """A linear map with a constant, by least squares."""
    rows = _with_one(h)
    return np.linalg.solve(rows.T @ rows + 1e-6 * len(rows) * np.eye(rows.shape[1]), rows.T @ _flat(belief))


def explained(probe: np.ndarray, h: np.ndarray, belief: np.ndarray) -> float:
    """R², of all entries together."""
    wanted = _flat(belief)
    missed = np.square(wanted - _with_one(h) @ probe).sum()
    return float(1 - missed / np.square(wanted - wanted.mean(0)).sum())


def _flat(a: np.ndarray) -> np.ndarray:
    return a.reshape(-1, a.shape[-1]).astype(np.float64)


def _with_one(h: np.ndarray) -> np.ndarray:
    rows = _flat(h)
    return np.append(rows, np.ones((len(rows), 1)), axis=1)


def reference(world: World, data: Data) -> dict[str, float]:
    """What a constant law would score, and the effective rank of the belief itself."""
    constant = np.log(data.law.mean((0, 1)))
    return {
        "kl": float(np.mean(divergence(data.law, constant))),
        "rank": effective_rank(_flat(data.belief)),
        "dimension": float(world.dimension),
    }


def walks(
    model: Any,
    method: Method,
    params: lt.NextLatParams,
    town: navigation.Town,
    key: Key[Array, ""],
    rows: int = 200,
) -> dict[str, float]:
    """In the town: shares of tours that stay valid for a window, left alone and sent on detours, by model and by ψ.

    A tour is valid while every token has positive probability. On detours, three of ten tokens are not the model's own:
    any token that is possible there takes its place. Compression: mean total variation between the next-token laws of
    two pasts that led to the same crossing with the same destination; 0 for a belief state.
    """
    window = model.window
    tokens = town.sample(np.random.default_rng(0), rows, window)
    by = {"model": None} | ({"psi": psi(model, method)} if method.rolls else {})
    came = {}
    for name, alone in by.items():
        for kind, share in (("valid", 0.0), ("detours", 0.3)):
            good = _walk(model, alone, town, params, jnp.asarray(tokens[:, :2]), key, share)
            came[f"{kind}_{name}"] = float(np.mean(good))
    crossing, destination = town.places(tokens)
    found = jax.device_get(_passes(model, by.get("psi"), params, jnp.asarray(np.tile(tokens, (1, LONGEST)))))
    came["compression_model"] = _same_place(found["said"], crossing, destination)
    if method.rolls:
        came["compression_psi"] = _same_place(found["rolled_said"][:, :window], crossing, destination)
    return came


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _walk(
    model: Any,
    psi: Any,
    town: navigation.Town,
    params: lt.NextLatParams,
    starts: Int[Array, "N 2"],
    key: Key[Array, ""],
    share: float,
) -> Array:
    law, after, size = jnp.asarray(town.law), jnp.asarray(town.after), town.size
    rows, window = len(starts), model.window

    def draw(key: Array, log_law: Array) -> Array:
        return jax.random.categorical(key, log_law)

    def step(carry: tuple, t: Array) -> tuple[tuple, None]:
        state, h, crossing, destination, good = carry
        first, second, third = jax.random.split(jax.random.fold_in(key, t), 3)
        here = law[crossing, destination]
        own = draw(first, model.logits(params.model, h))
        sent = jax.random.uniform(second, (rows,)) < share
        token = jnp.where(sent, draw(third, jnp.log(1.0 * (here > 0))), own)
        good = good & (jnp.take_along_axis(here, token[:, None], 1)[:, 0] > 0)
        moved = after[crossing, jnp.where(token >= size, token - size, 0)]
        crossing = jnp.where((token >= size) & (moved >= 0), moved, crossing)
        destination = jnp.where(token < size, token, destination)
        if psi is None:
            h, state = model.extend(params.model, state, token[:, None], t)
            h = h[:, 0]
        else:
            h = psi.apply(params.dynamics, h, model.embed(params.model, token))
        return (state, h, crossing, destination, good), None

    cache = model.initial_cache(params.model, rows, window)
    h, cache = model.extend(params.model, cache, starts, 0)
    begin = (cache if psi is None else 0, h[:, -1], starts[:, 0], starts[:, 1], jnp.ones(rows, bool))
    return jax.lax.scan(step, begin, jnp.arange(2, window))[0][-1]


def _same_place(said: np.ndarray, crossing: np.ndarray, destination: np.ndarray) -> float:
    """Mean total variation over pairs, of different tours, of the second half of the window."""
    half = said.shape[1] // 2
    place = (crossing * 1000 + destination)[:, half:]
    law = np.exp(said[:, half:])
    distances = []
    for one in np.unique(place):
        where = np.argwhere(place == one)
        _, first = np.unique(where[:, 0], return_index=True)
        picked = law[tuple(where[first].T)]
        if len(picked) > 1:
            distances += list(0.5 * np.abs(picked[1:] - picked[:-1]).sum(-1))
    return float(np.mean(distances))


def held_out(model: Any, method: Method, params: lt.NextLatParams, data: Data, prompt: int = 0) -> float:
    """What is chosen by: cross-entropy on validation sequences, of the model, and where there is a ψ of one step of it.

    The same for all: no method's own weights enter.
    """
    dynamics = lt.LatentDynamics(model.config.width, method.normalize)
    tokens, horizon = jnp.asarray(data.validation), int(method.rolls)
    masked = asked(tokens, prompt)
    _, parts = lt.nextlat_loss(model, dynamics, params, tokens, horizon=horizon, token_mask=masked)
    return float(parts.cross_entropy + parts.divergence)
