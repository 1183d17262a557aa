"""Training saved after each round, so that it goes on where it stopped."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp


class Checkpoint:
    """The latest state of one training run in a folder, written whole or not at all.

    ``identity`` is everything that the run depends on and that its arrays do not show: another run's folder is refused.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any]) -> None:
        self._identity = {name: _digest(value) for name, value in identity.items()}
        self._folder = Path(folder).absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=1, create=True, enable_async_checkpointing=False),
        )

    def restore(self, like: Any) -> tuple[int, Any]:
        """Rounds done and the state after them; 0 and ``like`` where nothing was saved.

        Raises:
            ValueError: the folder holds another run.
        """
        done = self._manager.latest_step()
        if done is None:
            return 0, like
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, _data(like))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(template), identity=ocp.args.JsonRestore())
        saved = self._manager.restore(done, args=ocp.args.Composite(identity=ocp.args.JsonRestore()))["identity"]
        different = sorted(name for name in self._identity if saved.get(name) != self._identity[name])
        if different:
            raise ValueError(
                f"checkpoint: expected a run with the same {', '.join(different)}, got another one in {self._folder}; "
                "take another folder, or remove this one to start again"
            )
        state = self._manager.restore(done, args=args)["state"]
        return done, jax.tree.map(_typed, like, jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(state)))

    def save(self, done: int, state: Any) -> None:
        """Keep the state after ``done`` rounds, and drop the one before."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(_data(state)), identity=ocp.args.JsonSave(self._identity))
        self._manager.save(done, args=args)

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.close()


def _data(tree: Any) -> list[Any]:
    """The leaves, with keys as plain integers."""
    return [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)]


def _typed(like: Any, leaf: Any) -> Any:
    return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like)) if _is_key(like) else leaf


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(value: Any) -> str:
    digest = hashlib.sha256(str(jax.tree.structure(value)).encode())
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, str):
            digest.update(leaf.encode())
            continue
        array = np.asarray(jax.random.key_data(leaf) if hasattr(leaf, "dtype") and _is_key(leaf) else leaf)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
