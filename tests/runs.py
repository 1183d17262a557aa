"""Long runs of both packages, small: what they saved, and a digest of what they returned.

``python runs.py NAME FOLDER RESULT`` writes the digest; it is a process of its own so that it can be killed.
"""

import hashlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import latenttrack as lt
import lowrank_filter as lf

LIKELIHOOD = lf.Categorical()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def net(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def start():
    params = {"first": jnp.full((3, 4), 0.1).at[0].set(0.3), "second": jnp.eye(4, 2)}
    return lf.init(params, 1.0, rank=2)


def stream(folder, noise=1e-3, x=X, every=3, **options):
    built = lf.extended_filter(net, LIKELIHOOD, rank=2, process_noise=noise, iterations=0)
    return lf.filter_stream(built, start(), x, Y, checkpoint=folder, checkpoint_every=every, **options)


def fit(folder, rate=1e-2, key=0, every=5, **options):
    given = {"optimizer": optax.adam(rate), "steps": 100, "batch_size": 16, "key": jax.random.key(key), **options}
    return lf.fit(start(), net, LIKELIHOOD, X, Y, checkpoint=folder, checkpoint_every=every, **given)


def latent(variance_floor=1e-4):
    config = lt.Config(2, 3, 3, (3,), (3,), prior_samples=2, points="random", variance_floor=variance_floor)
    return lt.build(config, 3, 1)


def latent_fit(folder, variance_floor=1e-4, **options):
    given = {"updates": 40, "evaluate_every": 2, "window": 8, "batch": 2, "samples": 2, **options}
    ys = jnp.asarray(X[:, :1])
    return lt.fit(
        latent(variance_floor), jax.random.key(0), X, ys, validation=(X[:20], ys[:20]), checkpoint=folder, **given
    )


def latent_rollout(folder, every=3, samples=2, seed=0):
    model = latent()
    params = model.init(jax.random.key(1))
    return lt.rollout(
        *(model, params, jax.random.key(seed), jnp.asarray(X), jnp.asarray(X[:, :1])),
        samples=samples,
        checkpoint=folder,
        checkpoint_every=every,
    )


RUNS = {"stream": stream, "fit": fit, "latent_fit": latent_fit, "latent_rollout": latent_rollout}


def digest(tree):
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    name, folder, result = sys.argv[1:]
    Path(result).write_text(digest(RUNS[name](folder)))
