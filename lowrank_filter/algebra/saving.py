"""Structures as flax saves them; pickle, orbax and JAX's key paths take them as they are."""

import dataclasses
import functools
from typing import Any


@functools.cache
def known_to_flax(structure: type, *arrays: str) -> None:
    """``flax.serialization`` takes a structure's arrays, what is static from the target; where flax is installed."""
    try:
        from flax import serialization  # noqa: PLC0415  a tenth of a second that most do not need
    except ImportError:
        return

    def to_state(value: Any) -> dict[str, Any]:
        return {name: serialization.to_state_dict(getattr(value, name)) for name in arrays}

    def from_state(target: Any, state: dict[str, Any]) -> Any:
        found = {name: serialization.from_state_dict(getattr(target, name), state[name]) for name in arrays}
        return dataclasses.replace(target, **found)

    serialization.register_serialization_state(structure, to_state, from_state)
