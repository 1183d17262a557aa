"""The objective against loops over rollouts, and where its gradients go."""

import functools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import token_models as tm

from latenttrack import next_latent as nl

pytestmark = pytest.mark.usefixtures("x64")
B, T, WIDTH = 2, 7, 3
TOKENS = np.asarray(tm.tokens(B, T))
TOKEN_MASK = np.ones((B, T), bool)
TOKEN_MASK[0, :3] = TOKEN_MASK[1, 5] = False
LATENT_MASK = np.ones((B, T), bool)
LATENT_MASK[0, 4] = LATENT_MASK[1, 6] = False


@functools.cache
def table():
    rng = np.random.default_rng(0)
    model = {"h": rng.normal(size=(B, T, WIDTH)), "e": rng.normal(size=(4, 2)), "head": 2 * rng.normal(size=(WIDTH, 4))}
    return nl.NextLatParams(model, {"A": 2 * rng.normal(size=(WIDTH, WIDTH)), "B": rng.normal(size=(2, WIDTH))})


def loss(params, horizon, **options):
    return nl.nextlat_loss(tm.Table(), tm.Linear(), params, jnp.asarray(TOKENS), horizon=horizon, **options)


def reference(params, horizon, token_mask, latent_mask):
    """One rollout after the other."""
    (model, psi), say = params, lambda h: scipy.special.log_softmax(h @ params.model["head"])
    said = [-say(model["h"][b, t])[TOKENS[b, t + 1]] for b in range(B) for t in range(T - 1) if token_mask[b, t + 1]]
    latent, divergence = [], []
    for i in range(1, horizon + 1):
        distances, kls = [], []
        for b in range(B):
            for t in range(T - i):
                h = model["h"][b, t]
                for s in range(t + 1, t + i + 1):
                    h = np.tanh(h @ psi["A"] + model["e"][TOKENS[b, s]] @ psi["B"])
                if not latent_mask[b, t + 1 : t + i + 1].all():
                    continue
                target = model["h"][b, t + i]
                distances.append(scipy.special.huber(1.0, h - target).mean())
                if t + i + 1 < T and token_mask[b, t + i + 1]:
                    kls.append(np.exp(say(target)) @ (say(target) - say(h)))
        latent.append(np.mean(distances))
        divergence.append(np.mean(kls))
    return np.mean(said), np.mean(latent), np.mean(divergence)


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_loops(horizon, masked):
    masks = (TOKEN_MASK, LATENT_MASK) if masked else (np.ones((B, T), bool),) * 2
    given = {"token_mask": jnp.asarray(masks[0]), "latent_mask": jnp.asarray(masks[1])} if masked else {}
    total, aux = loss(table(), horizon, latent=0.7, divergence=0.3, **given)
    expected = reference(table(), horizon, *masks)
    assert dense.relative_error(jnp.stack(aux), expected) < 1e-12
    assert dense.relative_error(total, np.dot(expected, (1, 0.7, 0.3))) < 1e-12


def test_horizon_zero_is_cross_entropy():
    def plain(params):
        logits = params["h"][:, :-1] @ params["head"]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, TOKENS[:, 1:]).mean()

    value, slope = jax.jit(jax.value_and_grad(lambda params: loss(params, 0)[0]))(table())
    expected, expected_slope = jax.jit(jax.value_and_grad(plain))(table().model)
    assert dense.relative_error(value, expected) < 1e-12
    for name in ("h", "head"):
        assert dense.relative_error(slope.model[name], expected_slope[name]) < 1e-12
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(slope.dynamics))


def test_gradients_go_where_they_should():
    def part(name, **options):
        return jax.jit(jax.grad(lambda params: getattr(loss(params, 2, **options)[1], name)))(table())

    kl, latent = jax.device_get((part("divergence"), part("latent")))
    assert np.all(kl.model["head"] == 0)
    for slope in (kl, latent):
        # The last position is only a target, the one before it also starts a rollout.
        assert np.all(slope.model["h"][:, -1] == 0) and np.any(slope.model["h"][:, 0] != 0)
        assert np.any(slope.model["e"] != 0) and np.any(slope.dynamics["A"] != 0)
    assert np.any(latent.model["h"][:, -2] != 0)
    # Every rollout from position 2 would have to pass position 3.
    masked = jax.device_get(part("latent", latent_mask=jnp.asarray(np.arange(T)[None].repeat(B, 0) != 3)))
    assert np.all(masked.model["h"][:, 2] == 0) and np.any(masked.model["h"][:, 1] != 0)


def test_rollouts_are_not_detached():
    """Finite differences through two steps of ψ, the targets held."""
    held = table()

    @jax.jit
    def value(step):
        params = held._replace(dynamics={**held.dynamics, "A": held.dynamics["A"] + step})
        return loss(params, 2, divergence=0.5)[0]

    assert abs(jax.grad(value)(0.0) - dense.finite_difference(lambda at: float(value(at)), 0.0, 1e-4)) < 1e-8


def test_detached_trains_the_dynamics_alone():
    total, slope = jax.jit(jax.value_and_grad(lambda params: loss(params, 2, detach=True)[0]))(table())
    whole, expected = jax.jit(jax.value_and_grad(lambda params: loss(params, 2)[0]))(table())
    assert dense.relative_error(total, whole) < 1e-14
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(slope.model))
    for name in ("A", "B"):
        assert dense.relative_error(slope.dynamics[name], expected.dynamics[name]) < 1e-12


def test_head_of_a_transformer_learns_nothing_from_the_divergence():
    @jax.jit
    def slope(params):
        def divergence(params):
            return nl.nextlat_loss(tm.transformer(), tm.DYNAMICS, params, tm.tokens(3, 8), horizon=2)[1].divergence

        return jax.grad(divergence)(params)

    of_model = slope(tm.params()).model
    assert jnp.all(of_model["head"]["kernel"] == 0)
    assert all(
        jnp.any(leaf != 0) for name, part in of_model.items() if name != "head" for leaf in jax.tree.leaves(part)
    )


def test_a_sweep_over_weights_is_a_vmap():
    weights = jnp.asarray([0.0, 0.5, 2.0])
    swept = jax.vmap(lambda weight: loss(table(), 2, latent=weight, divergence=weight)[0])(weights)
    for weight, came in zip(weights, swept, strict=True):
        assert dense.relative_error(came, loss(table(), 2, latent=weight, divergence=weight)[0]) < 1e-14
