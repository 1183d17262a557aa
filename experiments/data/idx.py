"""The IDX format of MNIST: a big-endian header (element type, shape), then the elements; here always gzipped."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

_ELEMENT_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read(path: Path) -> np.ndarray:
    """Return the array in a gzipped IDX file, with the shape and the element type of its header.

    Raises:
        ValueError: the file is no whole gzip file, or its content is no whole IDX array.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a whole gzip file, but {error}; delete the file and fetch it again"
        ) from error
    try:
        return parse(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; delete the file and fetch it again") from error


def parse(content: bytes) -> np.ndarray:
    """Return the array in the bytes of an IDX file (read-only: it shares their memory).

    Layout: two zero bytes, element type (1 byte), number of dimensions (1 byte), each dimension (4 bytes), elements.

    Raises:
        ValueError: a header that is not IDX, or a number of bytes that does not fit its shape.
    """
    if len(content) < 4:
        raise ValueError(f"expected an IDX header of at least 4 bytes, but there are {len(content)}")
    zeros, code, rank = struct.unpack_from(">HBB", content)
    if zeros != 0 or code not in _ELEMENT_TYPES or rank == 0:
        known = ", ".join(f"0x{code:02x}" for code in _ELEMENT_TYPES)
        raise ValueError(
            f"expected an IDX header 00 00 TYPE RANK with TYPE one of {known} and RANK at least 1, "
            f"but it is {content[:4].hex(' ')}"
        )
    start = 4 + 4 * rank
    if len(content) < start:
        raise ValueError(f"expected {start} bytes of header for {rank} dimensions, but there are {len(content)} bytes")
    shape = struct.unpack_from(f">{rank}I", content, 4)
    element = np.dtype(_ELEMENT_TYPES[code])
    expected = math.prod(shape) * element.itemsize
    if len(content) - start != expected:
        raise ValueError(
            f"expected {expected} bytes of elements for shape {shape}, but there are {len(content) - start}"
        )
    return np.frombuffer(content, element, offset=start).reshape(shape)
