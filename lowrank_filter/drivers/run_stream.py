"""A filter over batches that come one after the other, from any iterator and of any size."""

import collections
import contextlib
import functools
import hashlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lowrank_filter.common import checks
from lowrank_filter.common.pieces import host_only, joined, strong
from lowrank_filter.common.progress import Hook, reporting
from lowrank_filter.common.progress import check as check_progress
from lowrank_filter.drivers.filters import Filter, if_given
from lowrank_filter.drivers.state import check_state, shapes_of_mean
from lowrank_filter.drivers.stream import Stream, after_step
from lowrank_filter.kernels.belief import Belief
from lowrank_filter.kernels.update import Info

_TOGETHER = 100
_PARTS = "(x, y), (x, y, mask) or (x, y, mask, weights)"


@checks.all_given
def run_stream(
    filter: Filter,
    belief: Belief | Any,
    batches: Iterable[tuple],
    *,
    pad_to: int | None = None,
    progress: bool | Hook = True,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    callback: Callable[[int, Belief, Info], Any] | None = None,
) -> tuple[Any, Stream]:
    """Predict and update once for each batch of an iterator, until it ends.

    Uneven batches are filled up with masked examples to one size, so that the step is compiled once. The loop is the
    host's: for a stream that is in memory, or under ``jax.jit`` and ``vmap``, :func:`filter_stream` is faster.

    Args:
        filter: from :func:`extended_filter` or :func:`laplace_filter`, or any :class:`Filter`.
        belief: where to start; the first step predicts from it.
        batches: (x, y), (x, y, mask) or (x, y, mask, weights) each, as in :func:`update`, of any number of examples: a
            list, a generator, a loader of data. A mask or weights of None are as good as none. An empty batch is a step
            without data.
        pad_to: the size that all are filled up to, static. None takes the largest batch so far, and compiles again
            where a larger one comes.
        progress: True shows a bar on standard error where rich is installed, otherwise a line every ten seconds; a
            function is called with the batches done and the :class:`Info` of the last.
        checkpoint: a folder. Belief, position and records so far are saved there in the background, and also when the
            run is stopped by Ctrl-C or an error. The same call with the same batches from the first on passes over
            those that are done and goes on from there, bit for bit. Not with host callbacks in the network.
        checkpoint_every: batches from one save to the next.
        callback: called with the batches done, the belief and the last :class:`Info` after each; True stops the run.

    Returns:
        The last belief, and a :class:`Stream` of which only ``info`` is kept, stacked over the batches; its ``outputs``
        only with ``pad_to``, where all batches have one size. The callback's ``info`` has them always.

    Raises:
        RuntimeError: another run is using the checkpoint folder.
        TypeError: called within a traced function; an argument or a batch is of the wrong kind.
        ValueError: no batch, one of another structure or shape than the first, of more than ``pad_to`` examples, or
            with targets outside the likelihood's domain (a NaN is left out, and counted in ``info.invalid``); the
            folder holds another run or other batches, or no checkpoint that can be read.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> built = lf.extended_filter(apply_fn, lf.Gaussian(1.0), rank=2)
        >>> batches = [(jnp.eye(2), jnp.array([2.0, 4.0])), (jnp.ones((1, 2)), jnp.array([3.0]))]
        >>> belief, steps = lf.run_stream(built, built.init(jnp.zeros(2)), batches, progress=False)
        >>> print(belief.mean.round(3), steps.info.loss.shape)
        [1. 2.] (2,)
    """
    checks.instance("filter", filter, Filter, "build one with extended_filter or laplace_filter")
    check_state(belief)
    host_only("belief", belief)
    if pad_to is not None:
        checks.count("pad_to", pad_to, minimum=1)
    check_progress(progress)
    checks.folder("checkpoint", checkpoint)
    checks.count("checkpoint_every", checkpoint_every, minimum=1)
    if callback is not None:
        checks.function("callback", callback, "(done, belief, info)")
    total = len(batches) if isinstance(batches, Sized) else None
    padded = _padded(_iterator(batches), pad_to, hashed=checkpoint is not None)
    first = next(padded, None)
    if first is None:
        raise ValueError("batches: expected at least one batch, got none; give (x, y) for each update")
    padded = itertools.chain([first], padded)
    belief = strong(belief)
    checked = filter.check
    check = None if checked is None else first.in_its_words(lambda x, *_: checked(shapes_of_mean(belief), x))
    _check(check, "batches[0]", first)
    _, shapes = first.in_its_words(functools.partial(after_step, functools.partial(_step, filter), belief))
    shapes = _kept(shapes, pad_to)
    state = _State(0, belief)
    with contextlib.ExitStack() as stack:
        saved = None
        if checkpoint is not None:
            from lowrank_filter.common.checkpoint import Checkpoint  # noqa: PLC0415  orbax takes seconds to import

            program = _step.lower(filter, belief, *first.examples).as_text()
            x, y, mask, weights = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", first.examples)
            identity = {
                **{"start": belief, "pad_to": pad_to, "x": f"{x}", "y": y, "mask": mask, "weights": f"{weights}"},
                **{"program": program, "jax": jax.__version__},
            }
            saved = stack.enter_context(Checkpoint(checkpoint, identity))
            done, (belief, records, digest) = saved.restore((belief, shapes, first.digest))
            if done:
                _pass_over(padded, done, digest, checkpoint)
                state = _State(done, belief, (jax.tree.map(np.asarray, records),), digest=digest)
        safe = state.done
        report = stack.enter_context(reporting(progress, "run_stream", total))
        try:
            for batch in padded:
                _check(check, f"batches[{state.done}]", batch)
                belief, info = _step(filter, state.belief, *batch.examples)
                state = state.after(belief, _kept(info, pad_to), batch.digest)
                if saved is not None and state.done - safe >= checkpoint_every:
                    state = _save(saved, state)
                    safe = state.done
                report(state.done, info, info.loss)
                if callback is not None and callback(state.done, belief, info) is True:
                    break
        finally:
            if saved is not None and state.done > safe:
                _save(saved, state)
    return state.belief, Stream(jax.tree.map(jnp.asarray, joined([*state.gathered().records])), None, None)


_Examples = tuple[Any, np.ndarray, np.ndarray, np.ndarray | None]


class _Batch(NamedTuple):
    """x, y, mask and weights of one size, the same as they came, and a digest of all batches up to this one."""

    examples: _Examples
    given: _Examples
    digest: np.ndarray

    def in_its_words(self, function: Callable[..., Any]) -> Any:
        """``function`` of the examples; where it refuses them, it speaks of those that came and of their shapes."""
        try:
            return function(*self.examples)
        except (TypeError, ValueError) as error:
            refused = error
        if len(self.given[1]):
            function(*self.given)
        raise refused


class _State(NamedTuple):
    """How far the run is. One value, so that whatever stops the loop leaves a whole one."""

    done: int
    belief: Belief
    records: tuple[Info, ...] = ()
    recent: tuple[Info, ...] = ()
    digest: np.ndarray | None = None

    def after(self, belief: Belief, info: Info, digest: np.ndarray) -> "_State":
        """One more batch."""
        new = self._replace(done=self.done + 1, belief=belief, recent=(*self.recent, info), digest=digest)
        return new.gathered() if len(new.recent) >= _TOGETHER else new

    def gathered(self) -> "_State":
        """With its recent records stacked, on the host."""
        if not self.recent:
            return self
        stacked = jax.tree.map(lambda *values: np.stack(values), *jax.device_get(self.recent))
        return self._replace(records=(*self.records, stacked), recent=())


@functools.partial(jax.jit, static_argnums=0)
def _step(filter: Filter, belief: Belief, x: Any, y: Any, mask: Any, weights: Any) -> tuple[Belief, Info]:
    belief, info = filter.step(belief, x, y, mask, **if_given(weights))
    return belief, info._replace(site=None)


def _check(check: Callable[..., Any] | None, name: str, batch: _Batch) -> None:
    """Raise where its targets are none that the filter can learn from."""
    if check is not None:
        try:
            batch.in_its_words(lambda x, y, mask, weights: check(y, mask))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}, {error}") from error


def _kept(info: Info, pad_to: int | None) -> Info:
    """What can be stacked over the batches."""
    return info if pad_to is not None else info._replace(outputs=None)


def _save(saved: Any, state: _State) -> _State:
    """Save a state, and let a Ctrl-C wait until that is done."""
    state = state.gathered()
    state = state._replace(records=(joined([*state.records]),))
    with _uninterrupted():
        saved.save(state.done, (state.belief, state.records[0], state.digest))
    return state


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def _pass_over(padded: Iterator[_Batch], done: int, digest: Any, folder: str | Path) -> None:
    """Leave out the batches that a saved run has seen.

    Raises:
        ValueError: these are others.
    """
    last = collections.deque(itertools.islice(padded, done), maxlen=1)
    if not np.array_equal(last[0].digest, digest):
        raise ValueError(
            f"batches: expected the {done} batches first that the run in {folder} has seen, got others; give the same "
            "ones from the first on, or take another folder"
        )


def _iterator(batches: Any) -> Iterator[Any]:
    if isinstance(batches, str | bytes | dict) or hasattr(batches, "dtype") or not hasattr(batches, "__iter__"):
        raise TypeError(
            f"batches: expected an iterable of {_PARTS}, got {type(batches).__name__}; give a list or a generator of "
            "them"
        )
    return iter(batches)


def _padded(batches: Iterator[Any], pad_to: int | None, *, hashed: bool) -> Iterator[_Batch]:
    """Batches like the first one, filled up to ``pad_to`` examples or to the largest so far."""
    size, like, digest = pad_to or 1, None, np.zeros(32, np.uint8)
    for index, batch in enumerate(batches):
        name = f"batches[{index}]"
        x, y, mask, weights = _arrays(name, batch)
        like = jax.tree.map(lambda leaf: leaf[:0], (x, y)) if like is None else like
        x, y = _alike(name, (x, y), like)
        count = len(y)
        if pad_to is None:
            size = max(size, count)
        elif count > size:
            raise ValueError(
                f"{name}: expected at most pad_to = {checks.counted(size, 'example')}, got {count}; raise pad_to or "
                "cut the batch"
            )
        given = x, y, mask, weights
        if hashed:
            digest = _chained(digest, given)
        yield _Batch(jax.tree.map(functools.partial(_filled, size), given), given, digest)


def _arrays(name: str, batch: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray | None]:
    """Inputs, targets, mask and weights on the host, with one leading axis."""
    if not isinstance(batch, tuple | list) or not 2 <= len(batch) <= 4:
        came = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, tuple | list) else type(batch).__name__
        raise TypeError(f"{name}: expected {_PARTS}, got {came}; make each batch a tuple of these")
    x, y = jax.tree.map(functools.partial(_array, name), batch[0]), _array(name, batch[1])
    mask, weights = (*batch[2:], None, None)[:2]
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves((x, y))}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"{name}: expected x and y with one leading axis of examples, got leading axes {sorted(sizes)}; put "
            "examples along the first axis of each"
        )
    (size,) = sizes.pop()
    mask = np.ones(size, bool) if mask is None else _array(name, mask)
    if mask.shape not in ((size,), y.shape) or not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"{name}: expected a mask of {checks.counted(size, 'boolean')}, or one shaped like y, got {mask.dtype} of "
            f"shape {mask.shape}; True keeps an example, or a target"
        )
    if weights is not None:
        weights = _array(name, weights)
        if weights.shape != (size,) or not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError(
                f"{name}: expected weights, {checks.counted(size, 'number')} >= 0, got {weights.dtype} of shape "
                f"{weights.shape} from {weights.min(initial=np.inf)} on; an example of weight w counts w times"
            )
        weights = weights.astype(jnp.result_type(float))
    return x, y, mask.astype(bool), weights


def _array(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.number, np.bool_)):
        raise TypeError(
            f"{name}: expected arrays of numbers, got {array.dtype}; convert them to numbers, "
            "labels alike in all batches (numpy.searchsorted(names, y) with sorted names)"
        )
    return array


def _alike(name: str, came: Any, like: Any) -> Any:
    """In the dtypes of the first batch.

    Raises:
        ValueError: another structure or shape, or numbers that the first batch's dtype cannot hold.
    """
    alike = jax.tree.structure(came) == jax.tree.structure(like)
    if not alike or not all(jax.tree.leaves(jax.tree.map(_fits, came, like))):
        wanted, found = (
            jax.tree.map(lambda leaf: f"{leaf.dtype.name}{list(leaf.shape[1:])}", part) for part in (like, came)
        )
        raise ValueError(
            f"{name}: expected examples like the first batch's, {wanted}, got {found}; cut and convert them alike"
        )
    return jax.tree.map(lambda leaf, first: leaf.astype(first.dtype, copy=False), came, like)


def _fits(leaf: np.ndarray, first: np.ndarray) -> bool:
    return leaf.shape[1:] == first.shape[1:] and np.can_cast(leaf.dtype, first.dtype, "same_kind")


def _filled(size: int, leaf: np.ndarray) -> np.ndarray:
    if len(leaf) == size:
        return leaf
    return np.concatenate([leaf, np.zeros((size - len(leaf), *leaf.shape[1:]), leaf.dtype)])


def _chained(digest: np.ndarray, batch: Any) -> np.ndarray:
    """The digest of what came before and this."""
    found = hashlib.sha256(digest.tobytes())
    for leaf in jax.tree.leaves(batch):
        found.update(f"{leaf.dtype.name}{leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return np.frombuffer(found.digest(), np.uint8)
