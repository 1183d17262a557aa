"""A checksum of arrays that is the same however they are spread over devices and processes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowrank_filter.common.checks import concrete

_CHUNK = 2**20  # words that are looked at together
_GOLDEN, _SEEDS, _MULTIPLIERS = 0x9E3779B9, (0x243F6A88, 0x85A308D3), (0x85EBCA6B, 0xC2B2AE35)


def checksum(array: Any) -> str:
    """16 hexadecimal digits of dtype, shape and bits of an array.

    Each word of 32 bits (of 8 or 16 where elements are that small) is mixed with its place by the last steps of
    MurmurHash3 and all are added modulo 2³², twice: a sum does not know in which order or where it was made.
    """
    named = f"{array.dtype.name}{tuple(array.shape)}".encode()
    start = sum(byte * 257**place for place, byte in enumerate(named))
    if concrete(array):
        words = _words(np.asarray(array))
        sums = np.zeros(2, np.uint32)
        for begin in range(0, len(words), _CHUNK):
            part = words[begin : begin + _CHUNK].astype(np.uint32)
            places = np.arange(begin, begin + len(part), dtype=np.uint64).astype(np.uint32)
            sums += np.asarray([_mixed(part, places, seed).sum(dtype=np.uint32) for seed in _SEEDS], np.uint32)
    else:
        sums = np.asarray(_spread(array))
    return "".join(f"{(int(found) + start) % 2**32:08x}" for found in sums)


def _words(array: np.ndarray) -> np.ndarray:
    """The bits of an array as unsigned numbers of at most 32 bits, the lower half of wider ones first."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.dtype(f"<u{min(flat.dtype.itemsize, 4)}"))


def _mixed(words: Any, places: Any, seed: int) -> Any:
    """Words of 32 bits that depend on each bit and the place."""
    number = words.dtype.type
    words = (words ^ (places * number(_GOLDEN))) + number(seed)
    for shift, multiplier in zip((16, 13), _MULTIPLIERS, strict=True):
        words = (words ^ (words >> number(shift))) * number(multiplier)
    return words ^ (words >> number(16))


@jax.jit
def _spread(array: jax.Array) -> jax.Array:
    """The two sums, of an array whose parts are where they are."""
    if array.dtype == bool:
        words = array.astype(jnp.uint8)
    else:
        words = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * min(array.dtype.itemsize, 4)}"))
    places = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        places += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.stack([jnp.sum(_mixed(words.astype(jnp.uint32), places, seed), dtype=jnp.uint32) for seed in _SEEDS])
