"""Two sets of the same kind as MNIST that are not published at one address: notMNIST letters and USPS digits."""

import numpy as np

from experiments.data import idx, npz
from experiments.data.files import own
from experiments.data.images import Images

_LETTERS_FOR_TRAINING = 8000


def notmnist() -> Images:
    """Return letters A–J from many fonts: pixels [8000 or 2000, 28, 28] in [0, 1], labels their place in the alphabet.

    The set has 10,000 images and no split of its own: the first 8,000 are for training.

    Raises:
        DataFileError: the user's own folder does not hold the files.
    """
    grey = idx.read(own("vision/notmnist-t10k-images-idx3-ubyte.gz"))
    x = np.divide(grey, 255, dtype=np.float32)
    y = idx.read(own("vision/notmnist-t10k-labels-idx1-ubyte.gz")).astype(np.int32)
    return Images(
        *(part[rows] for rows in (slice(_LETTERS_FOR_TRAINING), slice(_LETTERS_FOR_TRAINING, None)) for part in (x, y))
    )


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
