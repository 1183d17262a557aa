"""Structures as flax saves them; pickle, orbax and JAX's key paths take them as they are."""

import dataclasses
import functools
from typing import Any


@functools.cache
def known_to_flax(structure: type, arrays: str = "parts") -> None:
    """``flax.serialization`` takes a structure's arrays, what is static from the target; where flax is installed."""
    try:
        from flax import serialization  # noqa: PLC0415  a tenth of a second that most do not need
    except ImportError:
        return

    def to_state(value: Any) -> dict[str, Any]:
        return {arrays: serialization.to_state_dict(getattr(value, arrays))}

    def from_state(target: Any, state: dict[str, Any]) -> Any:
        found = serialization.from_state_dict(getattr(target, arrays), state[arrays])
        return dataclasses.replace(target, **{arrays: found})

    serialization.register_serialization_state(structure, to_state, from_state)
