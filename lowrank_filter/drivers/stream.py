"""A filter over a whole stream."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled
from lowrank_filter.common.pieces import scan
from lowrank_filter.common.progress import Hook, reporting
from lowrank_filter.common.progress import check as check_progress
from lowrank_filter.drivers.filters import Filter, stepping
from lowrank_filter.kernels.belief import Belief, check_belief
from lowrank_filter.kernels.examples import as_inputs, as_mask
from lowrank_filter.kernels.update import Info

History = Literal["final", "means", "all"]


class Stream(NamedTuple):
    """What was kept of each of the N steps, N = ⌈examples / chunk_size⌉, along a leading axis.

    Attributes:
        info: each update's :class:`Info`; its site only with ``history="all"``.
        means: the posterior means, with ``history="means"``.
        beliefs: the posterior beliefs, with ``history="all"``; ready for :func:`smooth` together with ``info.site``.
    """

    info: Info
    means: Tree | None
    beliefs: Belief | None


def filter_stream(
    filter: Filter,
    belief: Belief,
    x: Any,
    y: Any,
    *,
    mask: Any = None,
    chunk_size: int = 1,
    history: History = "final",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    progress: bool | Hook = False,
) -> tuple[Belief, Stream]:
    """Predict and update through a stream in one ``lax.scan``.

    The stream is absorbed in chunks of ``chunk_size`` examples, one predict and one update each; the last is filled up
    with masked examples. Going on with the returned belief and the rest of the stream gives the same as one call with
    the whole, if the cut is at a chunk's end. It is compiled once for each filter and shape.

    Args:
        filter: from :func:`extended_filter` or :func:`laplace_filter`, or any :class:`Filter`.
        belief: where to start; the first step predicts from it.
        x, y: the stream, in order, with one leading axis.
        mask: booleans along that axis; a masked example is a missing observation.
        chunk_size: examples per update, static.
        history: "final" keeps nothing that grows with D; "means" the means; "all" the beliefs and sites.
        checkpoint: a folder. The stream is then absorbed in pieces, compiled here; belief, position and history so far
            are saved there after each, in the background, and the same call goes on from there, bit for bit. Not
            within ``jax.jit``, nor with host callbacks in the network, which differ from process to process.
        checkpoint_every: updates in a piece; what is written each time grows with the history that is kept.
        progress: a function called with the updates done and the :class:`Info` of the last n, stacked, after each piece
            of ``checkpoint_every``; True shows a bar where rich is installed, otherwise a line every ten seconds, on
            standard error. Not within ``jax.jit`` either.

    Returns:
        The last belief, and :class:`Stream`.

    Raises:
        RuntimeError: another run is using the checkpoint folder.
        TypeError: ``checkpoint`` or ``progress`` within a traced function.
        ValueError: leading axes that differ, an empty stream, an unknown history, a chunk size or a
            ``checkpoint_every`` below 1; the folder holds another run (the message shows what differs), or no
            checkpoint that can be read. One that cannot is named in a warning and the one before it is used.
    """
    checks.choice("history", history, ("final", "means", "all"))
    checks.count("chunk_size", chunk_size, minimum=1)
    checks.folder("checkpoint", checkpoint)
    checks.count("checkpoint_every", checkpoint_every, minimum=1)
    check_progress(progress)
    checks.instance("filter", filter, Filter, "build one with extended_filter or laplace_filter")
    check_belief(belief)
    x, y = as_inputs(x), checks.array("y", y, "an array of targets with one row per example")
    mask = None if mask is None else as_mask(mask)
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((x, y, mask))}
    if len(sizes) != 1 or () in sizes or (0,) in sizes:
        raise ValueError(
            f"x, y, mask: expected one leading axis of at least one example, got {sorted(sizes)}; cut them alike"
        )
    if checkpoint is None and progress is False:
        return compiled(_scan, belief, x, y, mask, filter=filter, chunk_size=chunk_size, history=history)
    step, stream = _steps(belief, x, y, mask, filter, chunk_size, history)
    with reporting(progress, "filter_stream", -(-len(y) // chunk_size)) as report:
        return scan(
            *(lambda _, belief, part: jax.lax.scan(step, belief, part), (), belief, stream),
            every=checkpoint_every,
            folder=checkpoint,
            identity={"chunk_size": chunk_size, "history": history},
            report=lambda done, kept: report(done, kept.info, kept.info.loss.mean()),
        )


def _scan(
    belief: Belief, x: Any, y: Any, mask: Any, *, filter: Filter, chunk_size: int, history: History
) -> tuple[Belief, Stream]:
    step, stream = _steps(belief, x, y, mask, filter, chunk_size, history)
    return jax.lax.scan(step, belief, stream)


def _steps(
    belief: Belief, x: Any, y: Any, mask: Any, filter: Filter, chunk_size: int, history: History
) -> tuple[Callable[[Belief, tuple], tuple[Belief, Stream]], tuple]:
    """One step, and the chunks that it takes along a leading axis."""
    size = len(y)
    present = jnp.ones(size, bool) if mask is None else mask
    steps = -(-size // chunk_size)

    def chunks(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        padded = jnp.pad(leaf, [(0, steps * chunk_size - size)] + [(0, 0)] * (leaf.ndim - 1))
        return padded.reshape(steps, chunk_size, *leaf.shape[1:])

    advance = stepping(filter)

    def step(belief: Belief, chunk: tuple) -> tuple[Belief, Stream]:
        belief, info = advance(belief, *chunk)
        kept = Stream(
            info if history == "all" else info._replace(site=None),
            belief.mean if history == "means" else None,
            belief if history == "all" else None,
        )
        return belief, kept

    stream = jax.tree.map(chunks, (x, y, present))
    same_belief(jax.eval_shape(step, belief, jax.tree.map(lambda leaf: leaf[0], stream))[0], belief)
    return step, stream


def same_belief(after: Belief, before: Belief) -> None:
    """What a step returns can be what the next one starts from.

    Raises:
        ValueError: another rank, other shapes or dtypes.
    """
    shapes, start = (jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), b) for b in (after, before))
    if shapes != start:
        raise ValueError(
            f"belief: expected the rank, shapes and dtypes that the filter's update returns, {shapes}, got {start}; "
            "start from filter.init(params)"
        )
