"""Task sequences: disjoint splits, the same images in every task, reproducible, and refused where impossible."""

from collections.abc import Callable

import numpy as np
import pytest

from experiments.continual.tasks import Tasks, permuted, permuted_split, rotated
from experiments.data import digits
from experiments.data.images import Images

ANGLES = [0, 10, 20, 30, 40]


def distinct(n: int, side: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return n images in [0, 1], each pixel of each another value, and the image's number as its label."""
    pixels = np.arange(n * side * side, dtype=np.float32).reshape(n, side, side)
    return pixels / pixels.max(), np.arange(n, dtype=np.int32)


def split_set(train: int = 60, test: int = 12) -> Images:
    x, y = distinct(train + test)
    return Images(x[:train], y[:train], x[train:], y[train:])


def assert_equal(first: Tasks, second: Tasks) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def turning() -> Tasks:
    images, labels = digits.load()
    return rotated(images, labels, ANGLES, train=50, val=200, test=500, seeds=range(5))


class TestRotated:
    def test_shapes_types_and_range(self, turning: Tasks) -> None:
        assert turning.train_x.shape == (5, 5, 50, 64) and turning.train_y.shape == (5, 5, 50)
        assert turning.val_x.shape == (5, 5, 200, 64) and turning.val_y.shape == (5, 5, 200)
        assert turning.test_x.shape == (5, 5, 500, 64) and turning.test_y.shape == (5, 5, 500)
        assert turning.names == ("0°", "10°", "20°", "30°", "40°")
        for x in (turning.train_x, turning.val_x, turning.test_x):
            assert x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1
        for y in (turning.train_y, turning.val_y, turning.test_y):
            assert y.dtype == np.int32

    @pytest.mark.parametrize(("make", "of"), [(rotated, [0] * 4), (permuted, 4)])
    def test_splits_are_disjoint(self, make: Callable[..., Tasks], of: object) -> None:
        tasks = make(*distinct(60), of, train=10, val=7, test=13, seeds=[0, 1])
        for seed in range(2):  # a label is the number of its image
            used = [*tasks.train_y[seed].ravel(), *tasks.val_y[seed, 0], *tasks.test_y[seed, 0]]
            assert len(used) == len(set(used)) == 60

    def test_a_task_shows_each_image_with_its_label(self) -> None:
        images, labels = distinct(60)
        tasks = rotated(images, labels, [0, 0], train=10, val=7, test=13, seeds=[3])
        np.testing.assert_array_equal(tasks.train_x, images.reshape(60, -1)[tasks.train_y])
        np.testing.assert_array_equal(tasks.val_x, images.reshape(60, -1)[tasks.val_y])
        np.testing.assert_array_equal(tasks.test_x, images.reshape(60, -1)[tasks.test_y])

    def test_positive_angles_turn_counter_clockwise(self) -> None:
        images, labels = distinct(6)
        tasks = rotated(images, labels, [0, 90], train=1, val=1, test=2, seeds=[0])
        upright, turned = tasks.test_x[0].reshape(2, 2, 3, 3)
        np.testing.assert_allclose(turned, np.rot90(upright, axes=(1, 2)), atol=1e-6)

    def test_validation_and_test_images_are_the_same_in_each_task(self, turning: Tasks) -> None:
        for y in (turning.val_y, turning.test_y):
            np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
        # Ten degrees move a digit little; forty move it further.
        moved = np.abs(turning.test_x - turning.test_x[:, :1]).mean(axis=(0, 2, 3))
        assert (np.diff(moved) > 0).all()

    def test_training_images_may_be_shared_when_the_pool_is_small(self) -> None:
        tasks = rotated(*distinct(30), [0, 0], train=10, val=7, test=13, seeds=[0], train_disjoint=False)
        np.testing.assert_array_equal(tasks.train_y[0, 0], tasks.train_y[0, 1])

    def test_seeds_are_reproducible_and_different(self) -> None:
        def make(seeds: list[int]) -> Tasks:
            return rotated(*distinct(40), [0, 20], train=5, val=5, test=5, seeds=seeds)

        together = make([4, 7])
        assert_equal(together, make([4, 7]))
        np.testing.assert_array_equal(together.train_x[1], make([7]).train_x[0])
        assert (together.test_y[0] != together.test_y[1]).any()

    def test_one_more_task_leaves_the_others_as_they_were(self) -> None:
        two, three = (
            rotated(*distinct(40), angles, train=5, val=5, test=5, seeds=[0]) for angles in ([0, 20], [0, 20, 40])
        )
        np.testing.assert_array_equal(two.train_x, three.train_x[:, :2])
        np.testing.assert_array_equal(two.test_x, three.test_x[:, :2])


class TestPermuted:
    def test_the_first_task_is_the_pool_itself_and_others_shuffle_its_pixels(self) -> None:
        images, labels = distinct(40)
        flat = images.reshape(40, -1)
        tasks = permuted(images, labels, 3, train=20, val=8, test=12, seeds=[0, 1], train_disjoint=False)
        assert tasks.names == ("1", "2", "3")
        for x, y in ((tasks.train_x, tasks.train_y), (tasks.val_x, tasks.val_y), (tasks.test_x, tasks.test_y)):
            np.testing.assert_array_equal(x[:, 0], flat[y[:, 0]])
            np.testing.assert_array_equal(np.sort(x), flat[y])  # pixels of `distinct` rise within an image
            assert (x[:, 1] != x[:, 0]).any() and (x[0, 1] != flat[y[1, 1]][:, :1]).any()

    def test_a_task_permutes_all_its_images_alike(self) -> None:
        tasks = permuted(*distinct(60), 3, train=10, val=10, test=20, seeds=[0, 1])
        for seed in range(2):
            orders = set()
            for task in range(3):
                rows = np.concatenate([x[seed, task] for x in (tasks.train_x, tasks.val_x, tasks.test_x)])
                order = np.argsort(rows, axis=1)
                assert (order == order[0]).all()
                orders.add(tuple(order[0]))
            assert len(orders) == 3

    def test_digits_with_shared_training_images(self) -> None:
        images, labels = digits.load()
        tasks = permuted(images, labels, 5, train=1250, val=247, test=300, seeds=[0], train_disjoint=False)
        assert tasks.train_x.shape == (1, 5, 1250, 64)
        np.testing.assert_array_equal(tasks.train_y[0, 0], tasks.train_y[0, 4])


class TestPermutedSplit:
    def test_training_validation_and_test_images_come_from_their_own_parts(self) -> None:
        tasks = permuted_split(split_set(), 4, train=30, val=5, seeds=[0, 1], held_out=10)
        assert tasks.train_x.shape == (2, 4, 30, 9) and tasks.test_x.shape == (2, 4, 12, 9)
        assert tasks.train_y.max() < 50
        assert tasks.val_y.min() >= 50 and tasks.val_y.max() < 60
        np.testing.assert_array_equal(tasks.test_y, np.broadcast_to(np.arange(60, 72), (2, 4, 12)))
        for y in tasks.train_y.reshape(-1, 30):
            assert len(set(y.tolist())) == 30
        assert (tasks.train_y[0, 0] != tasks.train_y[0, 1]).any()

    def test_a_limited_test_set_is_random_and_the_same_in_each_task(self) -> None:
        tasks = permuted_split(split_set(), 3, train=30, val=5, test=6, seeds=[0, 1], held_out=10)
        assert tasks.test_y.shape == (2, 3, 6)
        np.testing.assert_array_equal(tasks.test_y, np.broadcast_to(tasks.test_y[:, :1], (2, 3, 6)))
        assert set(tasks.test_y[0, 0].tolist()) != set(tasks.test_y[1, 0].tolist())

    def test_all_parts_of_a_task_share_its_permutation(self) -> None:
        images = split_set()
        tasks = permuted_split(images, 3, train=30, val=5, seeds=[2], held_out=10)
        flat = np.concatenate([images.train_x, images.test_x]).reshape(72, -1)
        np.testing.assert_array_equal(tasks.train_x[0, 0], flat[tasks.train_y[0, 0]])
        for task in range(3):
            rows = np.concatenate([x[0, task] for x in (tasks.train_x, tasks.val_x, tasks.test_x)])
            order = np.argsort(rows, axis=1)
            assert (order == order[0]).all()


class TestImpossible:
    def test_a_pool_too_small_for_disjoint_training_sets_says_so(self) -> None:
        with pytest.raises(ValueError, match=r"at least 45 .*5 × 5.*but it has 40; .*train_disjoint=False"):
            rotated(*distinct(40), ANGLES, train=5, val=10, test=10, seeds=[0])

    def test_a_pool_too_small_at_all(self) -> None:
        with pytest.raises(ValueError, match=r"at least 45 .*but it has 40; ask for fewer$"):
            permuted(*distinct(40), 5, train=25, val=10, test=10, seeds=[0], train_disjoint=False)

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({"train": 0}, "train to be at least 1"),
            ({"val": 0}, "val to be at least 1"),
            ({"test": -1}, "test to be at least 1"),
            ({"seeds": []}, "number of seeds to be at least 1"),
        ],
    )
    def test_empty_parts(self, sizes: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            rotated(*distinct(40), [0], **{"train": 5, "val": 5, "test": 5, "seeds": [0]} | sizes)

    def test_no_task(self) -> None:
        with pytest.raises(ValueError, match="tasks to be at least 1"):
            rotated(*distinct(40), [], train=5, val=5, test=5, seeds=[0])

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({"train": 51}, "train to be at most 50 .*is 51"),
            ({"val": 11}, "val to be at most 10 .*is 11"),
            ({"test": 13}, "test to be at most 12 .*is 13"),
            ({"held_out": 60}, "held_out to be at most 59"),
        ],
    )
    def test_more_than_a_split_set_has(self, sizes: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            permuted_split(split_set(), 2, **{"train": 30, "val": 5, "seeds": [0], "held_out": 10} | sizes)

    def test_labels_that_do_not_fit_the_images(self) -> None:
        images, labels = distinct(40)
        with pytest.raises(ValueError, match=r"\(40, 3, 3\) and \(39,\)"):
            rotated(images, labels[1:], [0], train=5, val=5, test=5, seeds=[0])
