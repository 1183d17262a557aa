"""Sequences of classification tasks: the same kind of images seen ever more rotated, or through shuffled pixels."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int32
from scipy import ndimage

from experiments.data.images import Images


class Tasks(NamedTuple):
    """T tasks for each of S seeds; an image is a row of d pixels in [0, 1], a label the number of its class.

    Training images fit a method, validation images choose its hyper-parameters, test images are only reported on.
    """

    train_x: Float32[np.ndarray, "S T n d"]
    train_y: Int32[np.ndarray, "S T n"]
    val_x: Float32[np.ndarray, "S T m d"]
    val_y: Int32[np.ndarray, "S T m"]
    test_x: Float32[np.ndarray, "S T p d"]
    test_y: Int32[np.ndarray, "S T p"]
    names: tuple[str, ...]


class _Split(NamedTuple):
    """Which images of a pool one seed uses: training images per task, validation and test images for all tasks."""

    train: Int[np.ndarray, "T n"]
    val: Int[np.ndarray, " m"]
    test: Int[np.ndarray, " p"]


def rotated(
    images: Float32[np.ndarray, "N h w"],
    labels: Int32[np.ndarray, " N"],
    angles: Sequence[float],
    *,
    train: int,
    val: int,
    test: int,
    seeds: Sequence[int],
    train_disjoint: bool = True,
) -> Tasks:
    """Return one task per angle (degrees, counter-clockwise): the images of a pool rotated by that angle.

    Each seed splits the pool anew. Its tasks share the validation and the test images, each rotated by the task's
    angle, and have ``train`` training images each: different ones in each task, or the same where
    ``train_disjoint`` is false. Pixels rotated in from outside the image are 0.

    Raises:
        ValueError: no angle, no seed, a size below 1, or a pool that is too small.
    """
    _require_pool(images, labels)
    splits = _splits(len(images), len(angles), train, val, test, seeds, train_disjoint)
    tasks = _empty(len(seeds), train, val, test, images[0].size, tuple(f"{angle:g}°" for angle in angles))
    # The whole pool is rotated once per angle, for all seeds together, and forgotten before the next angle.
    for task, angle in enumerate(angles):
        turned = ndimage.rotate(images, angle, axes=(1, 2), reshape=False, order=1)
        flat = _flat(np.clip(turned, 0, 1))
        for seed, split in enumerate(splits):
            _fill(tasks, seed, task, flat, labels, split)
    return tasks


def permuted(
    images: Float32[np.ndarray, "N h w"],
    labels: Int32[np.ndarray, " N"],
    tasks: int,
    *,
    train: int,
    val: int,
    test: int,
    seeds: Sequence[int],
    train_disjoint: bool = True,
) -> Tasks:
    """Return tasks that show the images of a pool through one fixed permutation of the pixels each.

    The first task shows the images as they are; each seed draws the permutations of the others. The split is the
    one of ``rotated``: validation and test images are shared by a seed's tasks, training images are different ones
    in each task, or the same where ``train_disjoint`` is false (a pool that is too small for disjoint ones).

    Raises:
        ValueError: no task, no seed, a size below 1, or a pool that is too small.
    """
    _require_pool(images, labels)
    splits = _splits(len(images), tasks, train, val, test, seeds, train_disjoint)
    flat = _flat(images)
    result = _empty(len(seeds), train, val, test, flat.shape[1], _numbered(tasks))
    for seed, split in enumerate(splits):
        for task, order in enumerate(pixel_orders(seeds[seed], tasks, flat.shape[1])):
            _fill(result, seed, task, flat, labels, split, order)
    return result


def permuted_split(
    images: Images,
    tasks: int,
    *,
    train: int,
    val: int,
    seeds: Sequence[int],
    test: int | None = None,
    held_out: int = 10_000,
) -> Tasks:
    """Return tasks like those of ``permuted`` from a set that has its own test images.

    Each task draws its ``train`` training images at random from all but the last ``held_out`` training images
    (tasks may share some); the ``val`` validation images of a seed are drawn from those last ones, and its test
    images are the set's, or ``test`` random ones of them.

    Raises:
        ValueError: no task, no seed, a size below 1, or more images asked for than the set has.
    """
    _require_pool(images.train_x, images.train_y)
    _require_pool(images.test_x, images.test_y)
    used = len(images.test_x) if test is None else test
    available = len(images.train_x) - held_out
    _require_sizes(tasks, train, val, used, seeds)
    _require_enough("held_out", held_out, len(images.train_x) - 1, "all training images but one")
    _require_enough("train", train, available, f"the first {available} training images")
    _require_enough("val", val, held_out, f"the last {held_out} training images")
    _require_enough("test", used, len(images.test_x), "the test images")

    train_flat, test_flat = _flat(images.train_x), _flat(images.test_x)
    d = train_flat.shape[1]
    result = _empty(len(seeds), train, val, used, d, _numbered(tasks))
    for seed, number in enumerate(seeds):
        rng = np.random.default_rng(number)
        val_rows = available + rng.permutation(held_out)[:val]
        test_rows = np.arange(used) if test is None else rng.permutation(len(test_flat))[:used]
        for task, order in enumerate(pixel_orders(number, tasks, d)):
            train_rows = rng.permutation(available)[:train]
            result.train_x[seed, task] = _seen(train_flat, train_rows, order)
            result.train_y[seed, task] = images.train_y[train_rows]
            result.val_x[seed, task] = _seen(train_flat, val_rows, order)
            result.val_y[seed, task] = images.train_y[val_rows]
            result.test_x[seed, task] = _seen(test_flat, test_rows, order)
            result.test_y[seed, task] = images.test_y[test_rows]
    return result


class Part(NamedTuple):
    """The images of one task: some set, and how that task sees rows of it."""

    name: str
    images: Images
    seen: Callable[[Float32[np.ndarray, "n h w"]], Float32[np.ndarray, "n h w"]] = lambda images: images


def sequence(
    parts: Sequence[Part], *, train: int, val: int, test: int, seeds: Sequence[int], held_out: float = 1 / 6
) -> Tasks:
    """Return one task for each part, in order; every image set and way to see one makes a task.

    Each seed draws a task's training images from all but the last ``held_out`` of the part's training images, its
    validation images from those, and its test images from the part's test images.

    Raises:
        ValueError: no part, no seed, a size below 1, parts of different sizes of images, or too few images.
    """
    _require_sizes(len(parts), train, val, test, seeds)
    sides = {part.name: part.seen(part.images.train_x[:1])[0].size for part in parts}
    if len(set(sides.values())) > 1:
        raise ValueError(f"expected parts that show as many pixels, but they show {sides}; bring them to one size")
    result = _empty(len(seeds), train, val, test, sides[parts[0].name], tuple(part.name for part in parts))
    for task, (name, images, seen) in enumerate(parts):
        available = len(images.train_x) - int(held_out * len(images.train_x))
        _require_enough("train", train, available, f"the first training images of {name}")
        _require_enough("val", val, len(images.train_x) - available, f"the last training images of {name}")
        _require_enough("test", test, len(images.test_x), f"the test images of {name}")
        for seed, number in enumerate(seeds):
            rng = np.random.default_rng([number, task])
            train_rows = rng.permutation(available)[:train]
            val_rows = available + rng.permutation(len(images.train_x) - available)[:val]
            test_rows = rng.permutation(len(images.test_x))[:test]
            result.train_x[seed, task] = _flat(seen(images.train_x[train_rows]))
            result.train_y[seed, task] = images.train_y[train_rows]
            result.val_x[seed, task] = _flat(seen(images.train_x[val_rows]))
            result.val_y[seed, task] = images.train_y[val_rows]
            result.test_x[seed, task] = _flat(seen(images.test_x[test_rows]))
            result.test_y[seed, task] = images.test_y[test_rows]
    return result


def split(images: Images, groups: Sequence[Sequence[int]], *, labels: Literal["class", "position"]) -> list[Part]:
    """Return parts that have some of the classes each: split MNIST (pairs), disjoint MNIST (halves).

    Args:
        labels: "class" keeps a class's own number (the outputs of earlier classes fall silent); "position" numbers
            the classes of each group anew, so that all tasks share their outputs.
    """

    def only(x: np.ndarray, y: np.ndarray, group: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        rows = np.isin(y, group)
        number = y[rows] if labels == "class" else np.array([list(group).index(label) for label in y[rows]])
        return x[rows], number.astype(np.int32)

    return [
        Part(
            "/".join(map(str, group)),
            Images(*only(images.train_x, images.train_y, group), *only(images.test_x, images.test_y, group)),
        )
        for group in groups
    ]


def brightness(images: Images, factors: Sequence[float]) -> list[Part]:
    """Return parts that see the same images darker (below 1) or brighter: gradual lighting."""
    return [
        Part(f"×{factor:g}", images, lambda x, factor=factor: np.clip(factor * x, 0, 1).astype(np.float32))
        for factor in factors
    ]


def resized(name: str, images: Images, side: int) -> Part:
    """Return a part whose images are brought to side × side pixels by linear interpolation."""

    def seen(x: Float32[np.ndarray, "n h w"]) -> Float32[np.ndarray, "n side side"]:
        if x.shape[1:] == (side, side):
            return x
        zoom = (1, side / x.shape[1], side / x.shape[2])
        return np.clip(np.asarray(ndimage.zoom(x, zoom, order=1)), 0, 1).astype(np.float32)

    return Part(name, images, seen)


def smaller(part: Part, side: int) -> Part:
    """Return the same part at side × side pixels."""
    size = resized(part.name, part.images, side)
    return part._replace(seen=lambda x: size.seen(part.seen(x)))


def _splits(
    pool: int, tasks: int, train: int, val: int, test: int, seeds: Sequence[int], train_disjoint: bool
) -> list[_Split]:
    _require_sizes(tasks, train, val, test, seeds)
    groups = tasks if train_disjoint else 1
    needed = val + test + groups * train
    if needed > pool:
        advice = "ask for fewer, or pass train_disjoint=False" if groups > 1 else "ask for fewer"
        raise ValueError(
            f"expected a pool of at least {needed} images ({val} validation + {test} test + {groups} × {train} "
            f"training), but it has {pool}; {advice}"
        )
    return [_split(pool, tasks, groups, train, val, test, seed) for seed in seeds]


def _split(pool: int, tasks: int, groups: int, train: int, val: int, test: int, seed: int) -> _Split:
    rows = np.random.default_rng(seed).permutation(pool)
    # Training images come last, so that one more task leaves all other images of a seed where they were.
    training = rows[val + test : val + test + groups * train].reshape(groups, train)
    return _Split(np.broadcast_to(training, (tasks, train)), rows[:val], rows[val : val + test])


def pixel_orders(seed: int, tasks: int, d: int) -> list[Int[np.ndarray, " d"]]:
    """The permutations of d pixels of a seed's tasks, the first of which changes nothing."""
    # A stream of its own: the permutations of a seed do not depend on how many images it drew.
    rng = np.random.default_rng([seed, d])
    return [np.arange(d)] + [rng.permutation(d) for _ in range(tasks - 1)]


def _empty(seeds: int, train: int, val: int, test: int, d: int, names: tuple[str, ...]) -> Tasks:
    lead = (seeds, len(names))
    return Tasks(
        train_x=np.empty((*lead, train, d), np.float32),
        train_y=np.empty((*lead, train), np.int32),
        val_x=np.empty((*lead, val, d), np.float32),
        val_y=np.empty((*lead, val), np.int32),
        test_x=np.empty((*lead, test, d), np.float32),
        test_y=np.empty((*lead, test), np.int32),
        names=names,
    )


def _fill(
    tasks: Tasks,
    seed: int,
    task: int,
    flat: Float32[np.ndarray, "N d"],
    labels: Int32[np.ndarray, " N"],
    split: _Split,
    order: Int[np.ndarray, " d"] | None = None,
) -> None:
    """Write one task of one seed into the arrays of ``tasks``, in place: there is never a second copy of them."""
    for x, y, rows in (
        (tasks.train_x, tasks.train_y, split.train[task]),
        (tasks.val_x, tasks.val_y, split.val),
        (tasks.test_x, tasks.test_y, split.test),
    ):
        x[seed, task] = _seen(flat, rows, order)
        y[seed, task] = labels[rows]


def _seen(
    flat: Float32[np.ndarray, "N d"], rows: Int[np.ndarray, " n"], order: Int[np.ndarray, " d"] | None
) -> Float32[np.ndarray, "n d"]:
    return flat[rows] if order is None else flat[rows][:, order]


def _flat(images: Float32[np.ndarray, "N h w"]) -> Float32[np.ndarray, "N d"]:
    return images.reshape(len(images), -1)


def _numbered(tasks: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(1, tasks + 1))


def _require_pool(images: np.ndarray, labels: np.ndarray) -> None:
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"expected images [N, h, w] and labels [N], but they have shapes {images.shape} and {labels.shape}; "
            f"pass one label for each image"
        )


def _require_sizes(tasks: int, train: int, val: int, test: int, seeds: Sequence[int]) -> None:
    for name, size in (
        ("tasks", tasks),
        ("train", train),
        ("val", val),
        ("test", test),
        ("the number of seeds", len(seeds)),
    ):
        if size < 1:
            raise ValueError(f"expected {name} to be at least 1, but it is {size}; ask for at least one")


def _require_enough(name: str, asked: int, available: int, source: str) -> None:
    if asked > available:
        raise ValueError(
            f"expected {name} to be at most {available} ({source}), but it is {asked}; ask for fewer images"
        )
