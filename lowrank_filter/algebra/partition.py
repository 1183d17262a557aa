"""Which parameters belong together: layers found in a pytree, and vectors cut into blocks.

A *layer* is a kernel with its bias; its *units* are the outputs, each with a column of the kernel and one entry of the
bias. As a matrix a layer is [U, m]: a row for each unit, its m − 1 weights and then its bias.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks

Part = Literal["layer", "unit"]

# A leaf with two axes or more is a kernel unless its name says that it is looked up or added, not multiplied.
_NO_KERNEL = ("embed", "token", "cls", "position")
_BIAS_NAMES = {"kernel": "bias", "weight": "bias", "w": "b", "W": "b"}


class Layer(NamedTuple):
    """A kernel and its bias, by their paths in the parameters as ``jax.tree_util.keystr`` writes them.

    Attributes:
        kernel: for instance ``"['params']['Dense_0']['kernel']"``.
        bias: likewise, or None.
        outputs: the axes of the kernel that number its units; all others are inputs.
    """

    kernel: str
    bias: str | None
    outputs: tuple[int, ...]


def find_layers(params: Tree) -> tuple[Layer, ...]:
    """The layers of a network, found by shape and name; pass a corrected tuple as ``layers=`` to say otherwise.

    - A kernel is a leaf with at least two axes, unless its name contains "embed", "token", "cls" or "position".
    - Its bias is a sibling of the same name with *bias* for *kernel* or *weight*, or *b* for *w* ("w1", "b1"); in a
      list or tuple, the leaf right after it. Its shape must be that of the kernel's outputs.
    - The outputs are the kernel's last axes, as many as the bias has (flax: [in, out], [height, width, in, out], [in,
      heads, width]); or its first axis where only that fits the bias, or where both fit or there is none and the name
      is *weight* (equinox: [out, in], [out, in, height, width]).

    Examples:
        >>> [layer] = lf.find_layers({"dense": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}})
        >>> layer.kernel, layer.bias
        ("['dense']['kernel']", "['dense']['bias']")
    """
    checks.parameters(params)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    shapes = {path: jnp.shape(leaf) for path, leaf in leaves}
    taken: set[tuple] = set()
    layers: dict[int, Layer] = {}
    # The kernel of a layer has more axes than its bias, which may have two itself.
    for position, (path, _) in sorted(enumerate(leaves), key=lambda item: -len(shapes[item[1][0]])):
        if path in taken or len(shapes[path]) < 2 or any(word in _name(path).lower() for word in _NO_KERNEL):
            continue
        follower = leaves[position + 1][0] if position + 1 < len(leaves) else None
        bias = next((p for p in shapes if p not in taken and p != path and _is_bias_of(p, path, follower)), None)
        outputs = _outputs(_name(path), shapes[path], None if bias is None else shapes[bias])
        if outputs is None:
            bias, outputs = None, _outputs(_name(path), shapes[path], None)
        taken |= {path} if bias is None else {path, bias}
        keystr = jax.tree_util.keystr
        layers[position] = Layer(keystr(path), None if bias is None else keystr(bias), outputs or ())
    return tuple(layers[position] for position in sorted(layers))


class Group(NamedTuple):
    """Parameters that are cut into blocks alike. Static.

    Attributes:
        leaves: their positions in the flattened parameters; for a layer, the kernel's and the bias's.
        units: for each leaf the axes that number the units, () for none of them.
        name: for messages.
        layer: whether this is a layer, a matrix [U, m].
        merged: whether all units are one block.
    """

    leaves: tuple[int, ...]
    units: tuple[tuple[int, ...], ...]
    name: str
    layer: bool
    merged: bool


@dataclasses.dataclass(frozen=True)
class Layout:
    """How vectors shaped like the parameters are cut into blocks, and put together again. Static and hashable.

    In blocks a vector is one array [U, m] for each group, U blocks of m parameters; a stack of n vectors is one array
    [U, n, m] for each group.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    groups: tuple[Group, ...]

    def __reduce__(self) -> tuple:
        """By an example of the structure, since JAX's own description of one cannot be saved whole."""
        example = jax.tree.unflatten(self.structure, range(len(self.shapes)))
        return _restored, (example, self.shapes, self.dtypes, self.groups)

    def __deepcopy__(self, _: Any) -> Self:
        """Nothing in it changes."""
        return self

    def like(self) -> Tree:
        """The shapes of the parameters."""
        shapes = [jax.ShapeDtypeStruct(*pair) for pair in zip(self.shapes, self.dtypes, strict=True)]
        return jax.tree.unflatten(self.structure, shapes)

    def split(self, vector: Tree) -> tuple[Float[Array, "_U _m"], ...]:
        """A vector in blocks."""
        leaves = jax.tree.leaves(vector)
        return tuple(self._rows(group, leaves) for group in self.groups)

    def split_stack(self, stack: Tree) -> tuple[Float[Array, "_U n _m"], ...]:
        """A stack of vectors in blocks."""
        return tuple(jnp.moveaxis(part, 0, 1) for part in jax.vmap(self.split)(stack))

    def join(self, parts: Sequence[Float[Array, "_U _m"]]) -> Tree:
        """A vector from its blocks."""
        leaves: list[Any] = [None] * len(self.shapes)
        for group, part in zip(self.groups, parts, strict=True):
            start, rows = 0, self.matrix(part, group)
            for leaf, axes in zip(group.leaves, group.units, strict=True):
                shape = self.shapes[leaf]
                rest = [axis for axis in range(len(shape)) if axis not in axes]
                width = math.prod(shape[axis] for axis in rest)
                ordered = rows[:, start : start + width].reshape([shape[axis] for axis in (*axes, *rest)])
                array = ordered.transpose(np.argsort((*axes, *rest)))
                leaves[leaf] = array
                start += width
        return jax.tree.unflatten(self.structure, leaves)

    def join_stack(self, parts: Sequence[Float[Array, "_U n _m"]]) -> Tree:
        """A stack of vectors from its blocks."""
        return jax.vmap(self.join)(tuple(jnp.moveaxis(part, 1, 0) for part in parts))

    def positions(self, group: Group) -> Int[np.ndarray, "U m"]:
        """Where each of a group's parameters is among all parameters, counted leaf by leaf."""
        starts = np.cumsum([0, *(math.prod(shape) for shape in self.shapes)])
        leaves = [
            np.arange(start, start + math.prod(shape)).reshape(shape)
            for start, shape in zip(starts, self.shapes, strict=False)
        ]
        return self._rows(group, leaves, concatenate=np.concatenate)

    def matrix(self, part: Any, group: Group) -> Any:
        """A layer's blocks [U, m], or its one block [1, U·m], as the matrix [U, m]."""
        return part.reshape(self._size(group), -1)

    def _size(self, group: Group) -> int:
        """U before merging."""
        return math.prod(self.shapes[group.leaves[0]][axis] for axis in group.units[0])

    def _rows(self, group: Group, leaves: Sequence[Any], concatenate: Any = jnp.concatenate) -> Any:
        rows = []
        for leaf, axes in zip(group.leaves, group.units, strict=True):
            rest = [axis for axis in range(len(self.shapes[leaf])) if axis not in axes]
            rows.append(leaves[leaf].transpose((*axes, *rest)).reshape(self._size(group), -1))
        joined = rows[0] if len(rows) == 1 else concatenate(rows, axis=1)
        return joined.reshape(1, -1) if group.merged else joined


def _restored(example: Tree, *rest: Any) -> Layout:
    return Layout(jax.tree.structure(example), *rest)


def layout(params: Tree, layers: Sequence[Layer] | None, part: Part) -> Layout:
    """Blocks for each layer or for each unit. What no layer claims is one block for each container that holds it.

    Raises:
        ValueError: ``layers`` names a leaf that does not exist, or one twice, or axes that do not fit.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    position = {jax.tree_util.keystr(path): index for index, (path, _) in enumerate(leaves)}
    shapes = tuple(jnp.shape(leaf) for _, leaf in leaves)
    if not (layers is None or isinstance(layers, list | tuple)) or isinstance(layers, Layer):
        raise TypeError(f"layers: expected a sequence of Layer, got {type(layers).__name__}; see find_layers(params)")
    found = find_layers(params) if layers is None else tuple(layers)
    groups = [_layer_group(layer, position, shapes, merged=part == "layer") for layer in found]
    claimed = [leaf for group in groups for leaf in group.leaves]
    if len(set(claimed)) < len(claimed):
        raise ValueError(
            "layers: expected every parameter in at most one layer, got one twice; see find_layers(params)"
        )
    containers: dict[tuple, list[int]] = {}
    for index, (path, _) in enumerate(leaves):
        if index not in claimed:
            containers.setdefault(path[:-1], []).append(index)
    for path, members in containers.items():
        name = jax.tree_util.keystr(path) or "parameters"
        groups.append(Group(tuple(members), ((),) * len(members), name, layer=False, merged=True))
    dtypes = tuple(jnp.result_type(leaf) for _, leaf in leaves)
    return Layout(jax.tree.structure(params), shapes, dtypes, tuple(groups))


def one_block(params: Tree) -> Layout:
    """All parameters together."""
    leaves = jax.tree.leaves(params)
    group = Group(tuple(range(len(leaves))), ((),) * len(leaves), "parameters", layer=False, merged=True)
    shapes, dtypes = tuple(map(jnp.shape, leaves)), tuple(map(jnp.result_type, leaves))
    return Layout(jax.tree.structure(params), shapes, dtypes, (group,))


def _layer_group(layer: Any, position: dict[str, int], shapes: Sequence[tuple[int, ...]], *, merged: bool) -> Group:
    if not isinstance(layer, Layer):
        raise TypeError(f"layers: expected Layer(kernel, bias, outputs), got {layer!r}; see find_layers(params)")
    for path in (layer.kernel, layer.bias):
        if path is not None and path not in position:
            raise ValueError(
                f"layers: expected paths of parameters, {', '.join(position)}; got {path!r}; see find_layers(params)"
            )
    kernel = position[layer.kernel]
    count = len(shapes[kernel])
    axes = tuple(axis % count if -count <= axis < count else axis for axis in layer.outputs)
    if not axes or len(set(axes)) < len(axes) or not set(axes) < set(range(len(shapes[kernel]))):
        raise ValueError(
            f"layers: expected for outputs some of the axes of {layer.kernel}, whose shape is {shapes[kernel]}, "
            f"got {layer.outputs}; see find_layers(params)"
        )
    if layer.bias is None:
        return Group((kernel,), (axes,), layer.kernel, layer=True, merged=merged)
    bias = position[layer.bias]
    wanted = tuple(shapes[kernel][axis] for axis in axes)
    if _squeezed(shapes[bias]) != _squeezed(wanted):
        raise ValueError(
            f"layers: expected {layer.bias} with the shape of the outputs of {layer.kernel}, {wanted}; "
            f"got {shapes[bias]}; give bias=None where it has none"
        )
    return Group((kernel, bias), (axes, tuple(range(len(shapes[bias])))), layer.kernel, layer=True, merged=merged)


def _outputs(name: str, kernel: tuple[int, ...], bias: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The output axes, or None if the bias does not fit."""
    last, first = (len(kernel) - 1,), (0,)
    if bias is None:
        return first if name == "weight" else last
    fits = []
    if 0 < len(bias) < len(kernel) and kernel[-len(bias) :] == bias:
        fits.append(tuple(range(len(kernel) - len(bias), len(kernel))))
    if bias and bias[0] == kernel[0] and math.prod(bias) == kernel[0]:
        fits.append(first)
    if not fits:
        return None
    return fits[-1] if name == "weight" else fits[0]


def _is_bias_of(path: tuple, kernel: tuple, follower: tuple | None) -> bool:
    if path[:-1] != kernel[:-1] and _trimmed(path)[:-1] != _trimmed(kernel)[:-1]:
        return False
    if not _is_named(kernel):
        return path == follower and path[:-1] == kernel[:-1]
    name = _name(kernel)
    for stem, bias in _BIAS_NAMES.items():
        if name.startswith(stem) or name.endswith(stem):
            return _name(path) == name.replace(stem, bias, 1)
    return False


def _trimmed(path: tuple) -> tuple:
    """Without the attribute that a variable keeps its value in (flax nnx)."""
    return path[:-1] if len(path) > 1 and getattr(path[-1], "name", None) in ("value", "raw_value") else path


def _name(path: tuple) -> str:
    if not path:
        return ""
    key = _trimmed(path)[-1]
    return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", ""))))


def _is_named(path: tuple) -> bool:
    key = _trimmed(path)[-1] if path else None
    return isinstance(getattr(key, "name", getattr(key, "key", None)), str)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
