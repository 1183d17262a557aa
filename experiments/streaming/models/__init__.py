"""Models of a stream, one file for each kind: its ``MODELS`` are found here, behind ``latenttrack.StreamModel``."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence

from experiments.streaming.models.entry import Entry


@functools.cache
def known() -> Mapping[str, Entry]:
    """Every model by its name, the latent filter first: what the comparison is about is run before the others."""
    files = sorted(
        (module.name for module in pkgutil.iter_modules(__path__)), key=lambda name: (name != "latent", name)
    )
    modules = [importlib.import_module(f"{__name__}.{name}") for name in files]
    return {name: entry for module in modules for name, entry in getattr(module, "MODELS", {}).items()}


def pick(names: Sequence[str] | None) -> dict[str, Entry]:
    """Models by name; all of them if none is named.

    Raises:
        ValueError: an unknown name.
    """
    chosen = list(known()) if names is None else list(names)
    if unknown := [name for name in chosen if name not in known()]:
        raise ValueError(f"models: expected names of {', '.join(known())}, got {', '.join(unknown)}; correct the name")
    return {name: known()[name] for name in chosen}
