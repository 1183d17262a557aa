"""USPS: digits from envelopes, of 16 × 16 pixels; not published at one address."""

import numpy as np

from experiments.data import npz
from experiments.data.files import own
from experiments.data.images import Images


def usps() -> Images:
    """Return digits from envelopes: pixels [7291 or 2007, 16, 16] in [0, 1], labels the digit 0…9.

    Raises:
        DataFileError: the user's own folder does not hold the file.
        ValueError: it is not whole; the message names it.
    """
    parts = npz.read(own("vision/usps.npz"), ("x_train", "y_train", "x_test", "y_test"))
    low, high = float(parts["x_train"].min()), float(parts["x_train"].max())

    def pixels(x: np.ndarray) -> np.ndarray:
        return np.clip((x.reshape(-1, 16, 16) - low) / (high - low), 0, 1).astype(np.float32)

    return Images(
        pixels(parts["x_train"]),
        parts["y_train"].ravel().astype(np.int32),
        pixels(parts["x_test"]),
        parts["y_test"].ravel().astype(np.int32),
    )
