"""Beliefs over several devices.

A belief is a pytree of arrays shaped like the parameters, so JAX's own sharding is all there is to it: place the layers
over an axis of a mesh (an automatic one, for which the compiler finds the rest), say with `out_shardings` that results
stay there, and call the kernels. Only k×k numbers and the network's own activations cross devices. Without an
accelerator, try it with `XLA_FLAGS=--xla_force_host_platform_device_count=4`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lowrank_filter as lf

mesh = jax.make_mesh((len(jax.devices()),), ("hidden",), axis_types=(AxisType.Auto,))
split = {"w1": PartitionSpec(None, "hidden"), "w2": PartitionSpec("hidden", None)}


def apply_fn(params, x):
    return jnp.tanh(x @ params["w1"]) @ params["w2"]


def over(belief):
    """A belief's shardings: the factor has one more axis, in front, which stays whole."""
    mean = {name: NamedSharding(mesh, spec) for name, spec in split.items()}
    factor = {name: NamedSharding(mesh, PartitionSpec(None, *spec)) for name, spec in split.items()}
    return lf.Belief(mean, lf.DiagLowRank(mean, factor))


first, second = jax.random.split(jax.random.key(0))
params = {"w1": jax.random.normal(first, (8, 64)), "w2": jax.random.normal(second, (64, 3)) / 8}
x = jax.random.normal(jax.random.key(1), (16, 8))
y = jnp.argmax(x[:, :3], axis=1)


def step(belief, x, y):
    belief, _ = lf.update(lf.predict(belief, 1e-4), apply_fn, lf.Categorical(), x, y)
    return belief


belief = lf.init(params, rank=6)
alone = jax.jit(step)(belief, x, y)
places = over(belief)
sharded = jax.jit(step, out_shardings=places)(jax.device_put(belief, places), x, y)
print(sharded.precision.factor["w1"].sharding, f"on {len(jax.devices())} devices")
for a, b in zip(jax.tree.leaves(alone.mean), jax.tree.leaves(sharded.mean), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
