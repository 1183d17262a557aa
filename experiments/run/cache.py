"""What has been computed already, under all that it depends on: data, code, configuration and budget."""

import functools
import hashlib
import json
import shutil
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.run.results import plain, written_whole

Tree = Any
_ROOT = Path(__file__).parents[2]
_ROOMS = ("continual", "data", "language", "streaming", "worlds")
_CODE = ("lowrank_filter", "latenttrack", *(f"experiments/{room}" for room in _ROOMS))


class Cache:
    """Pytrees of arrays in a folder, each in a file whose name is a hash of what it depends on.

    A file appears whole or not at all, so that a run that was killed goes on with what it had; a value under other
    settings, of other data or of other code has another name, and is never taken for this one.

    Attributes:
        earlier: seconds that other runs took for the values which this one found.
    """

    def __init__(self, folder: Path, depends: Mapping[str, Any]) -> None:
        """Keep values in ``folder``; ``depends`` is what all of them depend on."""
        self._folder, self._depends = folder, depends
        self.earlier = 0.0
        self._known: set[Path] = set()

    def place(self, key: Mapping[str, Any]) -> Path:
        """A folder for what is on its way to the value under ``key``; it goes when that is there."""
        text = json.dumps([self._depends, key], sort_keys=True, default=plain)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:24]

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether there is a value under ``key``."""
        return self.place(key).with_suffix(".npz").exists()

    def recall(self, key: Mapping[str, Any], compute: Callable[[], Tree], like: Callable[[], Tree]) -> Tree:
        """The pytree of arrays kept under ``key``, or else the one that ``compute`` returns, kept from now on.

        ``like`` returns a pytree of the same structure, without computing anything. A file that is not whole is named
        in a warning, and its value computed again.
        """
        place = self.place(key)
        path = place.with_suffix(".npz")
        if path.exists():
            try:
                value, seconds = _read(path, like())
                self.earlier += 0.0 if path in self._known else seconds
                self._known.add(path)
                return value
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                warnings.warn(f"{path}: expected a whole file, but {error}; its value is computed again", stacklevel=2)
        began = time.perf_counter()
        value = jax.device_get(compute())
        seconds = time.perf_counter() - began
        leaves = jax.tree.leaves(value)
        with written_whole(path) as file:
            np.savez_compressed(file, *leaves, seconds=seconds)
        self._known.add(path)
        shutil.rmtree(place, ignore_errors=True)
        return value

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self._folder, ignore_errors=True)


def data(tree: Tree) -> str:
    """A hash of arrays and text, for what a value depends on."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes() if array.dtype.kind in "UMmO" else array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@functools.cache
def code(module: str) -> str:
    """A hash of all that computes: both libraries, what experiments share, and the module of one experiment."""
    files = [path for part in _CODE for path in sorted((_ROOT / part).rglob("*.py"))]
    own = getattr(sys.modules.get(module), "__file__", None)
    digest = hashlib.sha256(jax.__version__.encode())
    for path in [*files, *([Path(own)] if own else [])]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(path: Path, like: Tree) -> tuple[Tree, float]:
    """The value, and the seconds that it took."""
    structure = jax.tree.structure(like)
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as kept:
        found = {name: kept[name] for name in kept.files}  # the archive's checksums are compared here
    seconds = float(found.pop("seconds", 0.0))
    if len(found) != structure.num_leaves:
        raise ValueError(f"it holds {len(found)} arrays and not {structure.num_leaves}")
    return jax.tree.unflatten(structure, list(found.values())), seconds
