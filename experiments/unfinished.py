"""What an interrupted experiment has computed already."""

import hashlib
import json
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.results import plain, written_whole

Tree = Any


class Unfinished:
    """Values kept in a folder under all that they depend on, until the experiment is finished."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Keep values in ``folder``; those kept under other settings are not found again."""
        self._folder, self._settings = folder, settings

    def place(self, key: Mapping[str, Any]) -> Path:
        """A folder for what is on its way to the value under ``key``; it goes when that is there."""
        text = json.dumps([self._settings, key], sort_keys=True, default=plain)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:24]

    def recall(self, key: Mapping[str, Any], compute: Callable[[], Tree], like: Callable[[], Tree]) -> Tree:
        """The pytree of arrays kept under ``key``, or else the one that ``compute`` returns, kept from now on.

        ``like`` returns a pytree of the same structure, without computing anything. A file that is not whole is named
        in a warning, and its value computed again.
        """
        place = self.place(key)
        path = place.with_suffix(".npz")
        if path.exists():
            try:
                return _read(path, like())
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                warnings.warn(f"{path}: expected a whole file, but {error}; its value is computed again", stacklevel=2)
        value = jax.device_get(compute())
        leaves = jax.tree.leaves(value)
        with written_whole(path) as file:
            np.savez(file, *leaves)
        shutil.rmtree(place, ignore_errors=True)
        return value

    def clear(self) -> None:
        """Forget everything: the experiment is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _read(path: Path, like: Tree) -> Tree:
    structure = jax.tree.structure(like)
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as kept:
        leaves = [kept[name] for name in kept.files]  # the archive's checksums are compared here
    if len(leaves) != structure.num_leaves:
        raise ValueError(f"it holds {len(leaves)} arrays and not {structure.num_leaves}")
    return jax.tree.unflatten(structure, leaves)
