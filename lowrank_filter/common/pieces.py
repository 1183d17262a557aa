"""A long scan in pieces, between which the host is told, and files are written."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental.multihost_utils import process_allgather

from lowrank_filter.common.checks import concrete

Tree = Any


class OtherRunError(ValueError):
    """A checkpoint's folder holds another run: other data, arguments, network or versions."""


def scan(
    advance: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]],
    fixed: Tree,
    carry: Tree,
    xs: Tree,
    *,
    every: int,
    folder: str | Path | None,
    identity: Mapping[str, Any],
    report: Callable[[int, Tree], None],
) -> tuple[Tree, Tree]:
    """``lax.scan`` over ``xs`` in pieces of ``every`` steps; in a folder, carry and ys so far are saved after each.

    What the program itself does is part of the run's identity: a network, a rank or a noise that a closure holds.

    Args:
        advance: ``advance(fixed, carry, part)`` → (carry, ys), for any number of steps; it is compiled here.
        fixed: what all steps share.
        carry, xs: as in ``lax.scan``.
        every: steps in a piece.
        folder, identity: as in :class:`~lowrank_filter.common.checkpoint.Checkpoint`; None saves nothing.
        report: called after each piece with the steps done and its ys.

    Raises:
        TypeError: called within a traced function.
        ValueError: as in ``Checkpoint.restore``.
    """
    host_only("progress" if folder is None else "checkpoint", (fixed, carry, xs))
    run = jax.jit(advance)
    carry = strong(carry)
    length = len(jax.tree.leaves(xs)[0])
    pieces: list[Tree] = []
    done = 0
    with contextlib.ExitStack() as stack:
        saved = None
        if folder is not None:
            from lowrank_filter.common.checkpoint import Checkpoint  # noqa: PLC0415  orbax takes seconds to import

            first = jax.tree.map(lambda leaf: leaf[:1], xs)
            # Of shapes alone: the same on any number of devices.
            program = run.lower(*jax.tree.map(_shape, (fixed, carry, first))).as_text()
            _, shapes = jax.eval_shape(run, fixed, carry, first)
            given = {"start": carry, "fixed": fixed, "data": xs, "program": program, "jax": jax.__version__}
            saved = stack.enter_context(Checkpoint(folder, {**identity, **given}))
            done, (carry, ys) = saved.restore((carry, shapes))
            pieces = [] if done == 0 else [fetched(ys)]
        while done < length:
            part = jax.tree.map(lambda leaf, done=done: leaf[done : done + every], xs)
            carry, piece = run(fixed, carry, part)
            carry, piece = strong(carry), fetched(piece)
            pieces.append(piece)
            done = min(done + every, length)
            if saved is not None:
                pieces = [joined(pieces)]
                saved.save(done, (carry, pieces[0]))
            report(done, piece)
    return carry, jax.tree.map(jnp.asarray, joined(pieces))


def fetched(tree: Tree) -> Tree:
    """Every leaf as an array of numpy, in each process the whole."""
    return jax.tree.map(lambda leaf: np.asarray(leaf if concrete(leaf) else process_allgather(leaf, tiled=True)), tree)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


def joined(pieces: list[Tree]) -> Tree:
    """One after the other along their leading axis."""
    return pieces[0] if len(pieces) == 1 else jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)


def host_only(name: str, value: Tree) -> None:
    """Raise TypeError where something is traced: files and callbacks belong to the host."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
        raise TypeError(
            f"{name}: expected a call outside of jax.jit, vmap and grad, since it writes files or calls the host, got "
            "traced values; what is computed is compiled within"
        )


def strong(tree: Tree) -> Tree:
    """Without weak types, which a file does not keep, and which would be a second compilation."""
    return jax.tree.map(
        lambda leaf: (
            leaf
            if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.extended)
            else jax.lax.convert_element_type(leaf, jnp.result_type(leaf))
        ),
        tree,
    )
