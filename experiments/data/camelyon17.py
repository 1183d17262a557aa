"""Camelyon17-WILDS in its published folder layout: patches of lymph nodes from five hospitals, with tumour or without.

``metadata.csv`` has one row for each patch; the patches lie at
``patches/patient_{p}_node_{n}/patch_patient_{p}_node_{n}_x_{x}_y_{y}.png``. The set is too large to be read at once: an
index is made of the table, and patches are read when they are asked for.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int32
from PIL import Image

_COLUMNS = ("patient", "node", "x_coord", "y_coord", "tumor", "center")


class Patches(NamedTuple):
    """The patches of the set: where each lies, whether it shows tumour (1 or 0), and its hospital 0…4."""

    files: tuple[Path, ...]
    tumour: Int32[np.ndarray, " N"]
    hospital: Int32[np.ndarray, " N"]

    def of_hospital(self, hospital: int) -> "Patches":
        """Those of one hospital."""
        return self.at(np.flatnonzero(self.hospital == hospital))

    def at(self, rows: Int[np.ndarray, " n"]) -> "Patches":
        """Those in the rows named, in that order."""
        return Patches(tuple(self.files[row] for row in rows), self.tumour[rows], self.hospital[rows])

    def pixels(self, side: int = 96) -> Float32[np.ndarray, "N side side 3"]:
        """Read the patches: colours in [0, 1], averaged down to ``side`` pixels."""
        result = np.empty((len(self.files), side, side, 3), np.float32)
        for row, file in enumerate(self.files):
            with Image.open(file) as image:
                result[row] = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BOX)) / 255
        return result

    def brightness(self) -> Float32[np.ndarray, " N"]:
        """The mean brightness of each patch in [0, 1], by which a gradual shift orders them."""
        result = np.empty(len(self.files), np.float32)
        for row, file in enumerate(self.files):
            with Image.open(file) as image:
                result[row] = np.asarray(image.convert("L"), np.float32).mean() / 255
        return result


def camelyon17(folder: Path) -> Patches:
    """Return the index of the patches in ``folder``.

    Raises:
        ValueError: there is no ``metadata.csv``, or a column or a patch that it names is missing.
    """
    table = folder / "metadata.csv"
    if not table.is_file():
        raise ValueError(
            f"expected {table}, as in the published camelyon17_v1.0 folder; download it and name its folder"
        )
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = set(_COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{table}: expected the columns {', '.join(_COLUMNS)}, but {sorted(missing)} are missing")
        rows = list(reader)
    files = tuple(_file(folder, row) for row in rows)
    if files and not files[0].is_file():
        raise ValueError(f"{table}: expected the patch {files[0]}, but there is none; unpack the whole archive")
    return Patches(
        files,
        np.array([int(row["tumor"]) for row in rows], np.int32),
        np.array([int(row["center"]) for row in rows], np.int32),
    )


def _file(folder: Path, row: dict[str, str]) -> Path:
    # Numbers alone: a name in the table could lead out of the folder. Patients have three digits in the names of
    # folders, whatever the table wrote.
    try:
        patient, place, x, y = (int(row[name]) for name in ("patient", "node", "x_coord", "y_coord"))
    except ValueError as error:
        raise ValueError(f"{folder / 'metadata.csv'}: expected whole numbers in each row, but {error}") from error
    node = f"patient_{patient:03d}_node_{place}"
    return folder / "patches" / node / f"patch_{node}_x_{x}_y_{y}.png"
