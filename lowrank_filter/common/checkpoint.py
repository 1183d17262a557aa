"""A long run saved as it goes, so that it goes on where it stopped, bit for bit."""

import contextlib
import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowrank_filter.common.checks import concrete
from lowrank_filter.common.checksum import checksum
from lowrank_filter.common.lock import alone
from lowrank_filter.common.pieces import OtherRunError

try:
    import orbax.checkpoint as ocp
except ImportError as error:
    raise ImportError(
        "checkpoint: expected the package orbax-checkpoint, got none; pip install 'weightfilter[checkpoint]'"
    ) from error

Tree = Any
_ADVICE = "take another folder, or remove this one to start again"


class Checkpoint:
    """The last states of one run in a folder: each written whole or not at all, while the run goes on.

    A context manager, which waits at its end for what is being written. Nobody else can use the folder meanwhile.

    Args:
        folder: made where it is missing.
        identity: everything that the run depends on, by name: numbers, text, arrays or pytrees of arrays. A folder
            with a run that differs in any of them is refused.
        keep: how many states.

    Raises:
        RuntimeError: another run is using the folder.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any], *, keep: int = 2) -> None:
        self._folder = Path(folder).absolute()
        self._identity = {name: _shown(value) for name, value in identity.items()}
        self._open = contextlib.ExitStack()
        if jax.process_index() == 0:  # the others of a run on several machines come with it
            self._open.enter_context(alone(self._folder))
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = self._open.enter_context(ocp.CheckpointManager(self._folder, options=options))

    def __enter__(self) -> "Checkpoint":
        """Nothing more: the folder is taken already."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for what is being written, and leave the folder."""
        self._open.close()

    def restore(self, like: Tree) -> tuple[int, Tree]:
        """The newest position that can be read and the state there; 0 and ``like`` where nothing was saved.

        Args:
            like: a pytree of the state's structure; shapes may differ, leaves may be ``jax.ShapeDtypeStruct``.

        Raises:
            ValueError: the folder holds another run, or nothing in it can be read. The message says what differs, or
                what is wrong with which file. One that can be read is used in place of newer ones that cannot, with a
                warning; those are set aside.
        """
        refused: dict[int, str] = {}
        for position in sorted(self._manager.all_steps(), reverse=True):
            try:
                about = self._about(position)
                state = self._state(position, about, like)
            except OtherRunError:
                raise
            except Exception as error:  # of many kinds: what a damaged file makes of orbax and its codecs
                reason = " ".join(str(error).split())[:500]
                refused[position] = f"{self._folder / str(position)}: {type(error).__name__}: {reason}"
                continue
            if refused:
                warnings.warn(
                    f"checkpoint: going on from {self._folder / str(position)}, since newer ones cannot be read: "
                    + "; ".join(refused.values()),
                    stacklevel=3,
                )
                self._set_aside(refused)
            return position, state
        if refused:
            raise ValueError(
                "checkpoint: expected a whole checkpoint of this program, got none that can be read: "
                + "; ".join(refused.values())
                + f"; {_ADVICE}"
            )
        return 0, like

    def save(self, position: int, state: Tree) -> None:
        """Copy the state after ``position`` steps now, and write it in the background."""
        plain = _plain(state)
        # Arrays over several devices are written from where they are; the others are copied at the same time.
        copies = jax.device_get([None if _split(leaf) else leaf for leaf in plain])
        leaves = [leaf if copy is None else np.asarray(copy) for leaf, copy in zip(plain, copies, strict=True)]
        about = {
            "identity": self._identity,
            "leaves": [[leaf.dtype.name, list(leaf.shape), checksum(leaf)] for leaf in leaves],
        }
        args = ocp.args.Composite(
            state=ocp.args.StandardSave({str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}),
            about=ocp.args.JsonSave(about),
        )
        self._manager.save(position, args=args)

    def _about(self, position: int) -> dict[str, Any]:
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        about = self._manager.restore(position, args=args)["about"]
        if not isinstance(about, dict) or set(about) != {"identity", "leaves"}:
            raise ValueError("expected a checkpoint of this program, got one of another")
        before = about["identity"]
        names = sorted(n for n in {*before, *self._identity} if before.get(n) != self._identity.get(n))
        if names:
            # The program's text is another one wherever an argument is: it says something only where it is alone.
            names = [name for name in names if name != "program"] or names
            changes = "; ".join(f"{n} was {before.get(n)} and is {self._identity.get(n)}" for n in names)
            raise OtherRunError(
                f"checkpoint: expected the run that {self._folder} holds, got another one: {changes}; {_ADVICE}"
            )
        return about

    def _state(self, position: int, about: dict[str, Any], like: Tree) -> Tree:
        wanted, structure = jax.tree.flatten(like)
        names, shapes, sums = zip(*about["leaves"], strict=True)
        if len(wanted) != len(names):
            raise ValueError(f"expected {len(wanted)} arrays, got {len(names)}")
        empty = [_empty(*leaf) for leaf in zip(wanted, names, shapes, strict=True)]
        template = {str(i): leaf for i, leaf in enumerate(empty) if leaf.size}
        args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
        found = self._manager.restore(position, args=args)["state"]
        leaves = [found.get(str(i), leaf) for i, leaf in enumerate(empty)]
        # Codecs pass over some damage and fill what is missing with zeros.
        if tuple(map(checksum, leaves)) != sums:
            raise ValueError("expected the arrays that were saved, got others: their checksum differs")
        return jax.tree.unflatten(structure, [_placed(*pair) for pair in zip(wanted, leaves, strict=True)])

    def _set_aside(self, refused: Mapping[int, str]) -> None:
        for position in refused if jax.process_index() == 0 else ():
            target = self._folder / f"refused-{position}"
            while target.exists():
                target = target.with_name(f"{target.name}-again")
            (self._folder / str(position)).rename(target)
        self._manager.reload()


def _plain(tree: Tree) -> list[Any]:
    """The leaves, with keys as plain integers."""
    return [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)]


def _split(leaf: Any) -> bool:
    """Whether an array is on several devices."""
    return isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1


def _empty(like: Any, dtype: str, shape: list[int]) -> Any:
    """What stands for an array that will be read: one that goes to several devices is read there, piece by piece."""
    if _split(like) and not _is_key(like) and tuple(shape) == like.shape:
        return jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype), sharding=like.sharding)
    return np.zeros(shape, jnp.dtype(dtype))


def _placed(like: Any, leaf: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(like))
    return jax.device_put(leaf, like.sharding) if _split(like) else jnp.asarray(leaf)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _shown(value: Any) -> str:
    """A short text that differs where the value does."""
    if all(leaf is None or isinstance(leaf, bool | int | float) for leaf in jax.tree.leaves(value)):
        return repr(value)
    if isinstance(value, str):
        return repr(value) if len(value) < 80 else f"text of SHA-256 {hashlib.sha256(value.encode()).hexdigest()[:16]}"
    leaves = [np.asarray(leaf) if concrete(leaf) else leaf for leaf in _plain(value)]
    if len(leaves) == 1 and leaves[0].ndim == 0:
        return f"{leaves[0].item()!r} ({leaves[0].dtype.name})"
    size = sum(leaf.size for leaf in leaves)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(value)]
    digest = hashlib.sha256(f"{paths}{[*map(checksum, leaves)]}".encode()).hexdigest()
    return f"{size} numbers in {len(leaves)} arrays of SHA-256 {digest[:16]}"
