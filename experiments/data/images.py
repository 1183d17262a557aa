"""One shape for every image set that comes with its own split into training and test images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32


class Images(NamedTuple):
    """Grey images in [0, 1] and their classes, split into training and test images by their publisher."""

    train_x: Float32[np.ndarray, "n h w"]
    train_y: Int32[np.ndarray, " n"]
    test_x: Float32[np.ndarray, "p h w"]
    test_y: Int32[np.ndarray, " p"]
