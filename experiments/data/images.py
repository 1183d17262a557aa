"""One shape for every image set that comes with its own split into training and test images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32


class Images(NamedTuple):
    """Images in [0, 1], grey or with colours last, and their classes, split into training and test images."""

    train_x: Float32[np.ndarray, "n h w *c"]
    train_y: Int32[np.ndarray, " n"]
    test_x: Float32[np.ndarray, "p h w *c"]
    test_y: Int32[np.ndarray, " p"]
