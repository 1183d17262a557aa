"""notMNIST: letters from many fonts, the same kind of images as MNIST; not published at one address."""

import numpy as np

from experiments.data import idx
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
