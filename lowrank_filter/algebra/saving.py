"""Structures as flax saves them; pickle, orbax and JAX's key paths take them as they are."""

import dataclasses
import functools
from typing import Any


@functools.cache
def known_to_flax(structure: type) -> None:
    """``flax.serialization`` takes a structure's parts, and its layout from the target; where flax is installed."""
    try:
        from flax import serialization  # noqa: PLC0415  a tenth of a second that most do not need
    except ImportError:
        return

    def to_state(value: Any) -> dict[str, Any]:
        return {"parts": serialization.to_state_dict(value.parts)}

    def from_state(target: Any, state: dict[str, Any]) -> Any:
        return dataclasses.replace(target, parts=serialization.from_state_dict(target.parts, state["parts"]))

    serialization.register_serialization_state(structure, to_state, from_state)
