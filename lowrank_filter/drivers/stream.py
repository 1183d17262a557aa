"""A filter over a whole stream."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled, described
from lowrank_filter.common.pieces import scan
from lowrank_filter.common.progress import Hook, reporting
from lowrank_filter.common.progress import check as check_progress
from lowrank_filter.drivers.filters import Filter
from lowrank_filter.drivers.state import check_state, shapes_of_mean
from lowrank_filter.kernels.belief import Belief
from lowrank_filter.kernels.examples import TARGETS, as_inputs, as_mask
from lowrank_filter.kernels.predict import per_step
from lowrank_filter.kernels.update import Info

History = Literal["final", "means", "all"]


class Stream(NamedTuple):
    """What was kept of each of the N steps, N = ⌈examples / chunk_size⌉, along a leading axis.

    Attributes:
        info: each update's :class:`Info`; its site only with ``history="all"``. ``info.outputs`` [N, B, C] are what
            was predicted of each chunk before it was learned from.
        means: the posterior means, with ``history="means"``.
        beliefs: the posterior beliefs, with ``history="all"``; ready for :func:`smooth` together with ``info.site``.
    """

    info: Info
    means: Tree | None
    beliefs: Belief | None


@checks.all_given
def filter_stream(
    filter: Filter,
    belief: Belief | Any,
    x: Any,
    y: Any,
    *,
    mask: Any = None,
    weights: Any = None,
    process_noise: Tree | None = None,
    transition: Tree | None = None,
    center: Tree | None = None,
    chunk_size: int = 1,
    history: History = "final",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    progress: bool | Hook = False,
) -> tuple[Any, Stream]:
    """Predict and update through a stream in one ``lax.scan``.

    The stream is absorbed in chunks of ``chunk_size`` examples, one predict and one update each; the last is filled up
    with masked examples. Going on with the returned belief and the rest of the stream gives the same as one call with
    the whole, if the cut is at a chunk's end. It is compiled once for each filter and shape.

    Args:
        filter: from :func:`extended_filter` or :func:`laplace_filter`, or any :class:`Filter`.
        belief: where to start; the first step predicts from it. Or the state of a filter that has more than a belief,
            as an :func:`adaptive_filter`; "belief" is then such a state throughout.
        x, y: the stream, in order, with one leading axis.
        mask: booleans along that axis; a masked example is a missing observation. Or shaped like ``y``: single targets
            of an example are then missing, see :func:`update`.
        weights: numbers ≥ 0 along that axis; an example of weight w counts w times.
        process_noise, transition, center: q, a and c in place of the filter's, where steps differ; entry t enters step
            t. One prefix for all steps, or one stacked along N, as :func:`smooth` takes them.
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
        ValueError: leading axes that differ, an empty stream, targets outside the likelihood's domain where they can be
            seen (a NaN is no mistake: it is left out, and counted in ``info.invalid``), an unknown history, a chunk
            size or a ``checkpoint_every`` below 1; the folder holds another run (the message shows what differs), or no
            checkpoint that can be read. One that cannot is named in a warning and the one before it is used.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> built = lf.extended_filter(apply_fn, lf.Gaussian(1.0), rank=2)
        >>> x, y = jnp.eye(2), jnp.array([2.0, 4.0])
        >>> belief, steps = lf.filter_stream(built, built.init(jnp.zeros(2)), x, y)
        >>> print(belief.mean.round(3), steps.info.log_evidence.shape)
        [1. 2.] (2,)
    """
    checks.choice("history", history, ("final", "means", "all"))
    checks.count("chunk_size", chunk_size, minimum=1)
    checks.folder("checkpoint", checkpoint)
    checks.count("checkpoint_every", checkpoint_every, minimum=1)
    check_progress(progress)
    checks.instance("filter", filter, Filter, "build one with extended_filter or laplace_filter")
    check_state(belief)
    x, y = as_inputs(x), checks.array("y", y, TARGETS)
    mask = None if mask is None else as_mask(mask)
    if weights is not None:
        weights = checks.numbers("weights", weights, "one number per example")
        checks.not_negative("weights", weights)
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((x, y, mask, weights))}
    if len(sizes) != 1 or () in sizes or (0,) in sizes:
        raise ValueError(
            f"x, y, mask, weights: expected one leading axis of at least one example, got {sorted(sizes)}; "
            "cut them alike"
        )
    if filter.check is not None:
        chunk = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((chunk_size, *leaf.shape[1:]), leaf.dtype), x)
        filter.check(shapes_of_mean(belief), chunk)(y, mask)
    checks.not_negative("process_noise", process_noise)
    checks.finite("transition", transition)
    checks.finite("center", center)
    given = {"process_noise": process_noise, "transition": transition, "center": center}
    examples = _Given(x, y, mask, weights, {name: value for name, value in given.items() if value is not None})
    options = {"filter": filter, "chunk_size": chunk_size, "history": history}
    if checkpoint is None and progress is False:
        return compiled(_scan, belief, examples, **options)
    step, stream = _steps(belief, examples, **options)
    with reporting(progress, "filter_stream", -(-len(y) // chunk_size)) as report:
        return scan(
            *(lambda _, belief, part: jax.lax.scan(step, belief, part), (), belief, stream),
            every=checkpoint_every,
            folder=checkpoint,
            identity={"chunk_size": chunk_size, "history": history, **described(filter.step)},
            report=lambda done, kept: report(done, kept.info, kept.info.loss.mean()),
        )


class _Given(NamedTuple):
    """A stream, and the dynamics by name where they are not the filter's."""

    x: Any
    y: Any
    mask: Any
    weights: Any
    dynamics: dict[str, Tree]


def _scan(belief: Belief, given: _Given, *, filter: Filter, chunk_size: int, history: History) -> tuple[Belief, Stream]:
    step, stream = _steps(belief, given, filter=filter, chunk_size=chunk_size, history=history)
    return jax.lax.scan(step, belief, stream)


def _steps(
    belief: Belief, given: _Given, *, filter: Filter, chunk_size: int, history: History
) -> tuple[Callable[[Belief, tuple], tuple[Belief, Stream]], tuple]:
    """One step, and the chunks that it takes along a leading axis."""
    size = len(given.y)
    present = jnp.ones(size, bool) if given.mask is None else given.mask
    steps = -(-size // chunk_size)

    def chunks(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        padded = jnp.pad(leaf, [(0, steps * chunk_size - size)] + [(0, 0)] * (leaf.ndim - 1))
        return padded.reshape(steps, chunk_size, *leaf.shape[1:])

    dynamics = {name: per_step(name, value, belief.mean, steps) for name, value in given.dynamics.items()}

    def step(belief: Belief, chunk: tuple) -> tuple[Belief, Stream]:
        number, *examples = chunk
        belief, info = filter.step(belief, *examples, **{name: at(number) for name, at in dynamics.items()})
        kept = Stream(
            info if history == "all" else info._replace(site=None),
            belief.mean if history == "means" else None,
            belief if history == "all" else None,
        )
        return belief, kept

    examples = (given.x, given.y, present, *([] if given.weights is None else [given.weights]))
    stream = (jnp.arange(steps), *jax.tree.map(chunks, examples))
    after_step(step, belief, jax.tree.map(lambda leaf: leaf[0], stream))
    return step, stream


def after_step(step: Callable[..., tuple[Belief, Any]], before: Belief, *examples: Any) -> tuple[Belief, Any]:
    """The shapes of what a step returns, which the next one can start from.

    Raises:
        ValueError: another rank, other shapes or dtypes.
    """
    with warnings.catch_warnings():
        # Of a belief that has another rank than the filter, which is refused here and not cut.
        warnings.filterwarnings("ignore", "rank=.* deprecated", DeprecationWarning)
        after, kept = jax.eval_shape(step, before, *examples)
    shapes, start = (
        {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (after, before))
    )
    if shapes != start:
        other = [name for name in shapes | start if shapes.get(name) != start.get(name)]
        wanted, found = (", ".join(f"{name} {one.get(name)}" for name in other[:4]) for one in (shapes, start))
        raise ValueError(
            f"belief: expected the rank, shapes and dtypes that the filter's update returns, {wanted}, got {found}; "
            f"start from filter.init(params){f' ({len(other)} arrays differ)' if len(other) > 4 else ''}"
        )
    return after, kept
