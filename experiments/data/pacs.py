"""PACS: photos, art, cartoons and sketches of the same seven things (Li et al. 2017, 1710.03077), 32 × 32 pixels."""

from collections.abc import Mapping

import numpy as np

from experiments.data import npz
from experiments.data.files import own
from experiments.data.images import Images

_FOR_TRAINING = 0.7
_ARRAYS = ("x", "y", "domain", "domain_names")


def pacs() -> Mapping[str, Images]:
    """Return the images of each domain by its name: pixels [n, 32, 32, 3] in [0, 1], labels 0…6.

    The set has no split of its own: 70 % of each domain, drawn once, are for training.

    Raises:
        DataFileError: the user's own folder does not hold the file.
        ValueError: it is not whole; the message names it.
    """
    parts = npz.read(own("vision/pacs-32x32-rgb.npz"), _ARRAYS)
    found = {}
    for number, name in enumerate(parts["domain_names"]):
        rows = np.flatnonzero(parts["domain"] == number)
        rows = np.random.default_rng(number).permutation(rows)
        x = np.divide(parts["x"][rows], 255, dtype=np.float32)
        y, cut = parts["y"][rows].astype(np.int32), int(_FOR_TRAINING * len(rows))
        found[str(name)] = Images(x[:cut], y[:cut], x[cut:], y[cut:])
    return found
