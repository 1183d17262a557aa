"""What an interrupted experiment has computed already."""

import hashlib
import json
import shutil
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

    def recall(self, key: Mapping[str, Any], compute: Callable[[], Tree], like: Callable[[], Tree]) -> Tree:
        """The pytree of arrays kept under ``key``, or else the one that ``compute`` returns, kept from now on.

        ``like`` returns a pytree of the same structure, without computing anything.
        """
        text = json.dumps([self._settings, key], sort_keys=True, default=plain)
        path = self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"
        if path.exists():
            with np.load(path) as kept:
                return jax.tree.unflatten(jax.tree.structure(like()), [kept[name] for name in kept.files])
        value = jax.device_get(compute())
        with written_whole(path) as file:
            np.savez(file, *jax.tree.leaves(value))
        return value

    def clear(self) -> None:
        """Forget everything: the experiment is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)
