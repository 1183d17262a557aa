"""One of several processes that hold a belief together, or the only one: ``worker.py TASK RANK COUNT PORT FOLDER``.

Each has as many devices as XLA_FLAGS say. Prints what it found as JSON.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import sharded
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import lowrank_filter as lf
from lowrank_filter.common.checkpoint import Checkpoint
from lowrank_filter.common.pieces import fetched

STEPS, EVERY = 40, 5


def places():
    """The parameters of one belief over all devices of all processes."""
    mesh = Mesh(np.array(jax.devices()), ("params",))

    def tree(*leading):
        return [
            {name: NamedSharding(mesh, PartitionSpec(*leading, *axes)) for name, axes in layer.items()}
            for layer in sharded.SPLIT
        ]

    return lf.Belief(tree(), lf.DiagLowRank(tree(), tree(None)))


def start():
    """A belief that each process makes and keeps its part of."""
    belief = lf.init(sharded.initial(jax.random.key(0)), precision=2.0, rank=sharded.RANK)
    return jax.jit(lambda: belief, out_shardings=places())()


def other():
    """Another belief in the same places."""
    return jax.jit(lambda b: jax.tree.map(jnp.sin, b))(start())


def write(path, tree):
    """All of its arrays, by the first process."""
    arrays = jax.tree.leaves(fetched(tree))
    if jax.process_index() == 0:
        np.savez(path, *arrays)
    return {}


def stream():
    """Inputs and labels that each process holds whole."""
    x = jax.random.normal(jax.random.key(1), (STEPS, sharded.SIZES[0]))
    mesh = places().mean[0]["w"].mesh
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda: (x, jnp.argmax(x[:, : sharded.SIZES[-1]], axis=1)), out_shardings=whole)()


def kernels(folder):
    return sharded.measured()


def refused(folder):
    """Eager calls with what no process sees whole: what can be seen is still checked."""
    belief, (x, y) = start(), stream()
    came, info = lf.update(lf.predict(belief, 1e-3), sharded.network, sharded.LIKELIHOOD, x[:1], y[:1])
    try:
        lf.update(came, sharded.network, sharded.LIKELIHOOD, x[:1], y[:1] + 100)
    except ValueError as error:
        return {"finite": bool(np.isfinite(fetched(info.loss))), "error": str(error)}
    return {"error": ""}


def run(folder):
    """A stream with checkpoints; belief and losses are left beside them."""
    built = lf.extended_filter(sharded.network, sharded.LIKELIHOOD, rank=sharded.RANK, process_noise=1e-3)
    belief, steps = lf.filter_stream(
        built, start(), *stream(), checkpoint=folder / "checkpoint", checkpoint_every=EVERY, history="final"
    )
    return write(folder / "outcome.npz", (belief, steps.info.loss))


def save(folder):
    """A state that was split over these devices."""
    belief = other()
    with Checkpoint(folder / "state", {"data": belief}) as checkpoint:
        checkpoint.save(1, belief)
    return write(folder / "state.npz", belief)


def restore(folder):
    """The same state on these devices: whether each bit is what it was, and where it is."""
    with Checkpoint(folder / "state", {"data": other()}) as checkpoint:
        position, came = checkpoint.restore(start())
    with np.load(folder / "state.npz") as before:
        same = [np.array_equal(a, b) for a, b in zip(before.values(), jax.tree.leaves(fetched(came)), strict=True)]
    shards = came.precision.factor[1]["w"].sharding.num_devices
    return {"position": position, "same": all(same), "devices": shards}


if __name__ == "__main__":
    task, rank, count, port, folder = sys.argv[1:]
    if int(count) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", int(count), int(rank))
    print(json.dumps(globals()[task](Path(folder))))
