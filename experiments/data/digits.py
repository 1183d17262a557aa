"""The 8×8 handwritten digits that scikit-learn ships: no download, one pool without a split."""

import numpy as np
from jaxtyping import Float32, Int32
from sklearn.datasets import load_digits

_BRIGHTEST = 16  # the pixels count dark cells in 4×4 blocks, so they run from 0 to 16


def load() -> tuple[Float32[np.ndarray, "1797 8 8"], Int32[np.ndarray, "1797"]]:
    """Return all digits: images [1797, 8, 8] in [0, 1] and their classes 0…9 [1797]."""
    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    images = (pixels.reshape(-1, 8, 8) / _BRIGHTEST).astype(np.float32)
    return images, labels.astype(np.int32)
