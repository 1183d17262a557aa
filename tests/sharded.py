"""Run by test_sharding in a process of its own with eight devices: a sharded belief against one on a single device.

Prints, as JSON, for each kernel the largest relative difference of its results, the number of elements of the largest
array that its compiled form moves between devices, and whether the result is still sharded.
"""

import functools
import itertools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import lowrank_filter as lf
from lowrank_filter.common.pieces import fetched

SIZES, RANK, STEPS, SEEDS, EXAMPLES = (64, 512, 512, 8), 5, 3, 2, 4
LIKELIHOOD = lf.Categorical()
# Pairs of layers as they are commonly split: the first by outputs, the second by inputs; the small last one whole.
SPLIT = [
    {"w": (None, "params"), "b": ("params",)},
    {"w": ("params", None), "b": (None,)},
    {"w": (None, None), "b": (None,)},
]
COLLECTIVE = re.compile(r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def network(params, x):
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def initial(key):
    sizes = list(itertools.pairwise(SIZES))
    keys = jax.random.split(key, len(sizes))
    return [
        {"w": jax.random.normal(k, size) / size[0] ** 0.5, "b": jnp.zeros(size[1])}
        for k, size in zip(keys, sizes, strict=True)
    ]


def predict(belief, x, y):
    return lf.predict(belief, 1e-2)


def update(belief, x, y):
    return lf.update(belief, network, LIKELIHOOD, x[:1], y[:1])[0]


def laplace_update(belief, x, y):
    return lf.laplace_update(belief, belief.mean, network, LIKELIHOOD, x, y)[0]


def smooth(belief, x, y):
    beliefs = jax.tree.map(lambda leaf: jnp.stack([leaf * (1 + t / 10) for t in range(STEPS)]), belief)
    return jax.tree.map(lambda leaf: leaf[0], lf.smooth(beliefs, beliefs.precision, 1e-2))


def shardings(mesh):
    """The seeds over one axis of the mesh, the parameters of each over the other."""

    def tree(*leading):
        return [
            {name: NamedSharding(mesh, PartitionSpec("seeds", *leading, *axes)) for name, axes in layer.items()}
            for layer in SPLIT
        ]

    return lf.Belief(tree(), lf.DiagLowRank(tree(), tree(None)))


def moved(text):
    sizes = [
        math.prod(int(n) for n in dims.split(",") if n)
        for match in COLLECTIVE.findall(text)
        for dims in re.findall(r"\w+\[([\d,]*)\]", match)
    ]
    return max(sizes, default=0)


def comparable(belief):
    """The mean and diag(P): what does not depend on how the factor is turned."""
    squares = jax.tree.map(lambda w: jnp.sum(w * w, axis=1), belief.precision.factor)
    return belief.mean, jax.tree.map(jnp.add, belief.precision.diag, squares)


def difference(came, expected):
    pairs = zip(*map(jax.tree.leaves, fetched((came, expected))), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs if np.abs(b).max() > 0)


def main():
    print(json.dumps(measured()))


def measured():
    mesh = Mesh(np.array(jax.devices()).reshape(SEEDS, -1), ("seeds", "params"))
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = jax.random.normal(keys[1], (EXAMPLES, SIZES[0])), jax.random.randint(keys[2], (EXAMPLES,), 0, SIZES[-1])
    params = jax.vmap(initial)(jax.random.split(keys[0], SEEDS))
    prior = jax.vmap(lambda p: lf.init(p, precision=2.0, rank=RANK))(params)
    belief = jax.jit(jax.vmap(lambda b: laplace_update(b, x, y)))(prior)
    places = shardings(mesh)
    sharded = jax.device_put(belief, places)
    found = {}
    for kernel in (predict, update, laplace_update, smooth):
        mapped = jax.vmap(functools.partial(kernel, x=x, y=y))
        split = jax.jit(mapped, out_shardings=places).lower(sharded).compile()
        came = split(sharded)
        found[kernel.__name__] = {
            "difference": difference(comparable(came), comparable(jax.jit(mapped)(belief))),
            "moved": moved(split.as_text()),
            "sharded": came.precision.factor[1]["w"].addressable_shards[0].data.shape[2] * 4 == SIZES[1],
        }
    return found


if __name__ == "__main__":
    main()
