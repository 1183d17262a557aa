"""LoRA, or the last layer only.

Give each part of the network a structure: a `Frozen` body under a `Dense` head is the last layer's exact posterior. Or
close over a frozen backbone and pass low-rank corrections W + A B: a belief is about the parameters that `apply_fn`
takes, whatever else the network has. Memory and time follow the number of what is learned.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import optax

import lowrank_filter as lf


def network(weights, x):
    for w in weights[:-1]:
        x = jnp.tanh(x @ w)
    return x @ weights[-1]


@functools.partial(jax.jit, static_argnums=(0, 4))
def learn(apply_fn, params, x, y, structure):
    belief = lf.init(params, 1.0, structure=structure)
    params, _ = lf.fit(belief, apply_fn, LIKELIHOOD, x, y, optimizer=optax.adam(1e-2), steps=300)
    return lf.laplace_update(belief, params, apply_fn, LIKELIHOOD, x, y)


LIKELIHOOD = lf.Gaussian(0.01)
keys = jax.random.split(jax.random.key(0), 6)
x = jax.random.normal(keys[0], (300, 4))
old, new = jnp.sin(x[:, 0] + x[:, 1]), jnp.sin(x[:, 0] + x[:, 1]) + 0.5 * jnp.tanh(x[:, 2])
sizes = (4, 32, 32, 1)
start = [jax.random.normal(k, s) / s[0] ** 0.5 for k, s in zip(keys[1:4], itertools.pairwise(sizes), strict=True)]
backbone = learn(network, start, x, old, lf.LowRank(rank=10))[0].mean


def lora(params, x):
    return network([w + p["a"] @ p["b"] for w, p in zip(backbone[:-1], params, strict=True)] + backbone[-1:], x)


adapters = [
    {"a": jax.random.normal(keys[4], (w.shape[0], 2)) / w.shape[0] ** 0.5, "b": jnp.zeros((2, w.shape[1]))}
    for w in backbone[:-1]
]
errors = {"frozen": jnp.std(network(backbone, x)[:, 0] - new)}
models = {
    "last layer": (network, tuple(backbone), (lf.Frozen(), lf.Frozen(), lf.Dense())),
    "LoRA": (lora, adapters, lf.LowRank(rank=10)),
}
for name, (apply_fn, params, structure) in models.items():
    belief, info = learn(apply_fn, params, x, new, structure)
    errors[name] = jnp.std(apply_fn(belief.mean, x)[:, 0] - new)
    print(f"{name}: error {errors[name]:.2f}, log evidence {info.log_evidence:.0f}")
assert errors["LoRA"] < errors["last layer"] < errors["frozen"]
