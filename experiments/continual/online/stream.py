"""One pass through a stream, in pieces that are compiled once and saved as they go."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any
Steps = dict[str, np.ndarray]
# Seconds between two states on disk: a state of a large network takes a while to write.
_EVERY = 60.0


class Program:
    """``step(settings, state, item)`` → (state, what is kept of the step), scanned over pieces of ``size`` items."""

    def __init__(self, step: Callable[[Tree, Tree, Tree], tuple[Tree, dict[str, Any]]], size: int) -> None:
        """Nothing is compiled before the first piece."""
        self._run = jax.jit(
            lambda settings, state, items: jax.lax.scan(lambda state, item: step(settings, state, item), state, items)
        )
        self._size, self._compiled = size, None

    def follow(self, settings: Tree, state: Tree, items: Tree, folder: Path, identity: Mapping[str, Any]) -> Steps:
        """What was kept of every step, and "seconds": CPU time of each piece, compilation not counted.

        Where ``folder`` has a state of the same run, it goes on from there.
        """
        from lowrank_filter.common.checkpoint import Checkpoint  # noqa: PLC0415  orbax takes seconds to import

        length, kept = len(jax.tree.leaves(items)[0]), dict[str, Any]()
        with Checkpoint(folder, {"settings": json.dumps(identity, sort_keys=True)}) as saved:
            first = jax.tree.map(lambda leaf: leaf[: self._size], items)
            shapes = jax.eval_shape(self._run, settings, state, first)[1]
            nothing = {name: np.zeros((0, *one.shape[1:]), one.dtype) for name, one in shapes.items()}
            like = {"seconds": np.zeros(0), **nothing}
            done, (state, kept) = saved.restore((state, like))
            last = time.perf_counter()
            while done < length:
                part = jax.tree.map(lambda leaf, done=done: leaf[done : done + self._size], items)
                if self._compiled is None:
                    self._compiled = self._run.lower(settings, state, part).compile()
                began = time.process_time()
                state, piece = jax.block_until_ready(self._compiled(settings, state, part))
                piece = {"seconds": np.array([time.process_time() - began]), **jax.device_get(piece)}
                kept = {name: np.concatenate([kept[name], piece[name]]) for name in piece}
                done += self._size
                if done < length and time.perf_counter() - last > _EVERY:
                    saved.save(done, (state, kept))
                    last = time.perf_counter()
        return {name: np.asarray(value) for name, value in kept.items()}


def traced(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as arrays: another choice is not another program."""
    return {
        name: jnp.asarray(value, bool if isinstance(value, bool) else jnp.float32) for name, value in settings.items()
    }
