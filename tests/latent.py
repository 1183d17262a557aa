"""Small models and streams that the tests share, so that each is compiled once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import latenttrack as lt

X, Y, T, K = 3, 2, 64, 4
SIZES = {
    "latent_dim": 3,
    "hidden_dim": 5,
    "encoder_dim": 4,
    "generator_hidden": (4,),
    "predictor_hidden": (5,),
    "posterior_samples": 2,
    "prior_samples": 3,
    "points": "random",
}
TRANSITIONS = ("structured", "unstructured")


@functools.cache
def model(transition="structured", **options):
    """Its single steps compiled: layer by layer they are slow."""
    built = lt.build(lt.Config(transition=transition, **{**SIZES, **options}), X, Y)
    return built._replace(update=jax.jit(built.update), predict=jax.jit(built.predict), init=jax.jit(built.init))


def params(built, seed=0):
    """Away from the initial values, where heads are nearly constant."""
    rng = np.random.default_rng(100 + seed)

    def moved(leaf):
        return jnp.asarray(leaf + 0.2 * rng.normal(size=leaf.shape).astype(leaf.dtype))

    return jax.tree.map(moved, jax.device_get(built.init(jax.random.key(seed))))


def stream(steps=T, seed=0):
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(steps, X))
    return jnp.asarray(xs), jnp.asarray(np.cumsum(rng.normal(size=(steps, Y)), axis=0) * 0.1 + xs[:, :Y])


def wide(tree):
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf, float)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )
