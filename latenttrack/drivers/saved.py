"""A forecaster in one file: a zip of arrays beside a description, checked when it is read."""

import dataclasses
import io
import json
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy

from latenttrack.algebra import quadrature
from latenttrack.tracking.config import Config

FORMAT = "latenttrack.Forecaster", 2


def write(path: Path, config: Config, roles: Mapping, shape: Any, trees: Mapping[str, Any]) -> None:
    """All of it under a temporary name in the same folder, then renamed."""
    content = {
        "format": FORMAT,
        "versions": {"jax": jax.__version__, "numpy": np.__version__, "scipy": scipy.__version__},
        "config": dataclasses.asdict(config),
        "roles": roles,
        "shape": shape,
        "leaves": {name: len(jax.tree.leaves(tree)) for name, tree in trees.items()},
    }
    arrays = {
        f"{name}.{index}": np.asarray(leaf)
        for name, tree in trees.items()
        for index, leaf in enumerate(jax.tree.leaves(tree))
    }
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"path: expected a file in a folder that exists, got {path}; make the folder first")
    with tempfile.NamedTemporaryFile(dir=path.absolute().parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            description = np.frombuffer(json.dumps(content, default=_plain).encode(), np.uint8)
            np.savez_compressed(file, description=description, points=_points(config), **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def read(path: Path, restore: Callable) -> tuple[Config, dict, Any, Any]:
    """Config, roles, and what ``restore(config, roles, shape, leaves by name)`` makes of the rest.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a foreign, later or damaged file.
    """
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "where there is none"
        raise FileNotFoundError(f"path: expected a file that Forecaster.save wrote, got {path}, {kind}; correct it")
    content = io.BytesIO(path.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as file:
            description = json.loads(bytes(file["description"]))
            kind, version = description["format"]
            arrays = {name: file[name] for name in file.files}
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"path: expected a file that Forecaster.save wrote, whole, got {path}, which is another or a damaged one "
            f"({type(error).__name__}); save it again"
        ) from error
    if kind != FORMAT[0] or version != FORMAT[1]:
        raise ValueError(
            f"path: expected a file of {FORMAT[0]}, version {FORMAT[1]}, got {path} of {kind}, version {version}; "
            "update the package, or save it again"
        )
    try:
        sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in description["config"].items()}
        config = Config(**sizes)
        leaves = {
            name: [arrays[f"{name}.{index}"] for index in range(count)] for name, count in description["leaves"].items()
        }
        shape, values = restore(config, description["roles"], description["shape"], leaves)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"path: expected the parts of a Forecaster, got {path}, whose parts do not belong together ({error}); save "
            "it again"
        ) from error
    if not np.allclose(arrays["points"], _points(config), atol=1e-6):
        warnings.warn(
            f"{path} was saved with other quadrature points (SciPy {description['versions']['scipy']}) than SciPy "
            f"{scipy.__version__} draws; predictions differ a little",
            stacklevel=3,
        )
    return config, description["roles"], shape, values


def _points(config: Config) -> np.ndarray:
    """The points of a default rollout, all zero where they are drawn anew at each step."""
    if config.points == "random":
        return np.zeros((2, 32, config.latent_dim))
    return quadrature.points(32, 1 if config.transition == "unstructured" else 2, config.latent_dim)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(
        f"id: expected texts or numbers, got {type(value).__name__}, which cannot be saved; convert the column first"
    )
