"""Sequences whose tasks differ in their classes, their light, their image set, or their hospital."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.catalogue.camelyon import by_brightness, by_hospital
from experiments.continual.networks import cnn
from experiments.continual.tasks import Part, brightness, resized, sequence, split
from experiments.data.camelyon17 import camelyon17
from experiments.data.files import FOLDER_VARIABLE, DataFileError
from experiments.data.images import Images
from experiments.data.notmnist import notmnist
from experiments.data.usps import usps

RNG = np.random.default_rng(0)
SIZES = {"train": 10, "val": 3, "test": 5}


def some(side: int = 4) -> Images:
    x = RNG.uniform(size=(160, side, side)).astype(np.float32)
    y = np.tile(np.arange(4, dtype=np.int32), 40)
    return Images(x[:120], y[:120], x[120:], y[120:])


@pytest.mark.parametrize("labels", ["class", "position"])
def test_split_tasks_have_their_own_classes(labels) -> None:
    tasks = sequence(split(some(), [(0, 1), (2, 3)], labels=labels), **SIZES, seeds=[0, 1])
    assert tasks.names == ("0/1", "2/3") and tasks.train_x.shape == (2, 2, 10, 16)
    second = {2, 3} if labels == "class" else {0, 1}
    for y in (tasks.train_y, tasks.val_y, tasks.test_y):
        assert set(y[:, 0].ravel()) <= {0, 1} and set(y[:, 1].ravel()) <= second


def test_training_validation_and_test_images_are_apart_and_depend_on_the_seed_alone() -> None:
    images = some()
    tasks = sequence([Part("a", images), Part("b", images)], **SIZES, seeds=[0, 1])
    rows = {
        name: {tuple(row) for row in getattr(tasks, name)[0].reshape(-1, 16)} for name in ("train_x", "val_x", "test_x")
    }
    assert not rows["train_x"] & rows["val_x"] and not rows["train_x"] & rows["test_x"]
    assert rows["test_x"] <= {tuple(row) for row in images.test_x.reshape(-1, 16)}
    np.testing.assert_array_equal(
        tasks.train_x[1], sequence([Part("a", images), Part("b", images)], **SIZES, seeds=[1]).train_x[0]
    )


def test_light_is_all_that_changes_with_brightness() -> None:
    images = some()
    tasks = sequence(brightness(images, [1.0, 0.5, 2.0]), **SIZES, seeds=[0])
    known = images.train_x.reshape(-1, 16)
    for task, factor in enumerate((1.0, 0.5, 2.0)):
        assert all((np.clip(known * factor, 0, 1) == row).all(axis=1).any() for row in tasks.train_x[0, task])


def test_sets_of_different_sizes_are_brought_to_one() -> None:
    tasks = sequence([resized("small", some(4), 6), resized("large", some(6), 6)], **SIZES, seeds=[0])
    assert tasks.train_x.shape[-1] == 36 and tasks.train_x.min() >= 0 and tasks.train_x.max() <= 1
    with pytest.raises(ValueError, match="as many pixels"):
        sequence([Part("small", some(4)), Part("large", some(6))], **SIZES, seeds=[0])


def test_more_than_a_part_has() -> None:
    with pytest.raises(ValueError, match="test to be at most 40"):
        sequence([Part("a", some())], **SIZES | {"test": 41}, seeds=[0])


@pytest.mark.skipif(not os.environ.get(FOLDER_VARIABLE), reason=f"{FOLDER_VARIABLE} names no folder with the files")
@pytest.mark.parametrize(("load", "sizes"), [(notmnist, (8000, 2000, 28)), (usps, (7291, 2007, 16))])
def test_letters_and_post(load, sizes: tuple[int, int, int]) -> None:
    images = load()
    train, test, side = sizes
    assert images.train_x.shape == (train, side, side) and images.test_x.shape == (test, side, side)
    assert images.train_x.min() == 0 and images.train_x.max() == 1 and images.train_x.dtype == np.float32
    assert set(images.train_y) == set(images.test_y) == set(range(10))


def test_a_set_without_an_address_is_asked_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(DataFileError, match=r"usps\.npz .*not set"):
        usps()


class TestCamelyon17:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        lines = [",patient,node,x_coord,y_coord,tumor,slide,center,split"]
        for row in range(6):
            patient, node, center, grey = 4 + row // 3, row % 2, row // 3, 40 * row
            name = f"patient_{patient:03d}_node_{node}"
            (tmp_path / "patches" / name).mkdir(parents=True, exist_ok=True)
            image = Image.new("RGB", (96, 96), (grey, grey, grey))
            image.save(tmp_path / "patches" / name / f"patch_{name}_x_{row}_y_7.png")
            lines.append(f"{row},{patient:03d},{node},{row},7,{row % 2},0,{center},0")
        (tmp_path / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
        return tmp_path

    def test_patches_by_hospital_and_by_brightness(self, folder: Path) -> None:
        patches = camelyon17(folder)
        np.testing.assert_array_equal(patches.hospital, [0, 0, 0, 1, 1, 1])
        second = patches.of_hospital(1)
        np.testing.assert_array_equal(second.tumour, [1, 0, 1])
        np.testing.assert_allclose(second.brightness(), np.array([120, 160, 200]) / 255, atol=1e-6)
        pixels = second.pixels(side=12)
        assert pixels.shape == (3, 12, 12, 3)
        np.testing.assert_allclose(pixels[2], 200 / 255, atol=1e-6)

    def test_sequences_by_hospital_and_from_dark_to_bright(self, folder: Path) -> None:
        patches, sizes = camelyon17(folder), {"train": 1, "val": 1, "test": 1}
        tasks = sequence(by_hospital(patches, each=3, side=8), **sizes, seeds=[0, 1], held_out=0.5)
        assert tasks.names == ("hospital 0", "hospital 1") and tasks.train_x.shape == (2, 2, 1, 8 * 8 * 3)
        assert tasks.train_x[:, 0].max() < tasks.train_x[:, 1].min()
        darker, brighter = by_brightness(patches, 2, each=3, side=8)
        assert darker.images.train_x.max() <= 80 / 255 < 120 / 255 <= brighter.images.train_x.min() + 1e-6
        logits = cnn(8, 2, colours=3)
        params = logits.init(jax.random.key(0))
        assert logits.apply(params, tasks.train_x[0, 0]).shape == (1, 2)
        kernels = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
        assert kernels == [(16, 8), (8, 2), (27, 32), (288, 16), (144, 4)]

    @pytest.mark.parametrize("node", ["../../1", "1.5", ""])
    def test_a_table_leads_nowhere_else(self, folder: Path, node: str) -> None:
        table = folder / "metadata.csv"
        columns = "patient,node,x_coord,y_coord,tumor,center"
        table.write_text(f"{columns}\n1,{node},0,0,1,0\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"metadata\.csv: expected whole numbers in each row"):
            camelyon17(folder)

    def test_what_is_missing_is_named(self, folder: Path) -> None:
        next((folder / "patches").rglob("*_x_0_y_7.png")).unlink()
        with pytest.raises(ValueError, match="expected the patch"):
            camelyon17(folder)
        (folder / "metadata.csv").write_text("patient,node\n1,2\n", encoding="utf-8")
        with pytest.raises(ValueError, match="columns"):
            camelyon17(folder)
        (folder / "metadata.csv").unlink()
        with pytest.raises(ValueError, match=r"metadata\.csv"):
            camelyon17(folder)
