"""Where a network's parameters meet its examples, read off its jaxpr.

The gradient of a dense layer's weight for one example is an outer product of the layer's input and the gradient at its
output; a convolution's, and any layer's that shares its weights over positions, is a sum of such products. So sums over
examples of squares, of Kronecker factors and of products with diagonal blocks need the two small arrays and not the
gradients. They are found by evaluating the network's jaxpr and adding a zero *probe* to the result of every operation
in which a parameter meets an example: the gradient with respect to the probe is the gradient at that place. No copy of
the model is written, and any ``apply_fn`` will do.

What is recognised: products of a parameter with examples (``x @ w``, ``w @ x`` under ``vmap``, ``lax.dot_general``
without batch axes), convolutions without groups, and adding or multiplying by a parameter that is broadcast. Parameters
may be reshaped, transposed, sliced and converted before. A bias belongs to the product whose result it is added to.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.example_gradients import find_places
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.kernels.coupling import other_numbers

_zip = functools.partial(zip, strict=True)

Root = Callable[[Array], Float[Array, "B C r"]]

# Operations that only select and move parameters, and what they do to an array of labels.
_MOVES: dict[str, Callable[[np.ndarray, dict], Sequence[np.ndarray]]] = {
    "reshape": lambda labels, options: [labels.reshape(options["new_sizes"])],
    "transpose": lambda labels, options: [labels.transpose(options["permutation"])],
    "squeeze": lambda labels, options: [labels.squeeze(options["dimensions"])],
    "slice": lambda labels, options: [labels[_slices(options)]],
    "split": lambda labels, options: np.split(labels, np.cumsum(options["sizes"])[:-1], options["axis"]),
    "broadcast_in_dim": lambda labels, options: [_spread(labels, options)],
    "convert_element_type": lambda labels, _: [labels],
    "copy": lambda labels, _: [labels],
    "copy_p": lambda labels, _: [labels],
}


class Use(NamedTuple):
    """One operation of a parameter with examples. Static.

    Attributes:
        kind: "dense", "bias" or "scale".
        labels: which parameters they are, counted leaf by leaf: [I, O] for inputs and outputs, [O] without inputs.
        bias: for a dense use, which parameters are added to its outputs [O], or None.
        positions: T, over how many places of an example they are shared.
        probe: shape and dtype of the result, for the number of examples that was read.
        order: the axes of the result in the order examples, positions, outputs.
    """

    kind: str
    labels: np.ndarray
    bias: np.ndarray | None
    positions: int
    probe: jax.ShapeDtypeStruct
    order: tuple[int, ...]

    def result(self, examples: int) -> tuple[int, ...]:
        """The shape of the result for a number of examples."""
        return tuple(examples if axis == self.order[0] else n for axis, n in enumerate(self.probe.shape))

    def canonical(self, result: Array) -> Float[Array, "B T O"]:
        """The result, or its gradient, with its axes in order."""
        return result.transpose(self.order).reshape(-1, self.positions, self.labels.shape[-1])


class Factors(NamedTuple):
    """What a use looks like on a batch: the examples' side (None where it is one), and the gradient of each root."""

    inputs: Float[Array, "B T I"] | None
    gradients: Float[Array, "B T O r"]


class Reading(NamedTuple):
    """A network's uses of its parameters.

    Attributes:
        uses: in the order of evaluation.
        counts: how often each parameter is in one of them for an example [D].
        unknown: which parameters are (also) used in another way [D].
        last: the numbers of the uses that the outputs are the sum of, a product and perhaps its bias; none where the
            network goes on after them.
    """

    uses: tuple[Use, ...]
    counts: np.ndarray
    unknown: np.ndarray
    last: tuple[int, ...] = ()

    def shared(self) -> np.ndarray:
        """Which parameters meet an example more than once, or in more than one place [D]."""
        found = self.counts > 1
        for use in self.uses:
            found[use.labels.ravel()] |= use.kind == "dense" and use.positions > 1
        return found

    def unused(self, positions: np.ndarray) -> bool:
        """Whether the outputs do not depend on these parameters, or no gradient goes to them."""
        return not self.unknown[positions].any() and not self.counts[positions].any()

    def layer_uses(self, positions: np.ndarray) -> list["LayerUse"]:
        """The dense uses that together are all uses of a layer [U, m]; none if there are others."""
        place = np.full(self.counts.size, -1)
        place[positions.ravel()] = np.arange(positions.size)
        found = [
            use_of_layer
            for number, use in enumerate(self.uses)
            if (use_of_layer := _layer_use(number, use, place, positions))
        ]
        complete = not self.unknown[positions].any() and (self.counts[positions] == len(found)).all()
        return found if complete else []


class LayerUse(NamedTuple):
    """A dense use that is a whole layer: the layer's inputs and units in the order of the use's.

    Attributes:
        use: its number.
        bias: whether the layer's last input is a one.
        inputs: for each input of the layer the use's [I].
        units: for each unit of the layer the use's output [U].
    """

    use: int
    bias: bool
    inputs: np.ndarray
    units: np.ndarray

    def apply(self, factors: Sequence[Factors]) -> tuple[Float[Array, "B T m"], Float[Array, "B T U r"]]:
        """The layer's inputs (with a one for the bias) and output gradients, in the layer's order."""
        inputs, gradients = factors[self.use]
        if inputs is None:
            raise AssertionError("a dense use has inputs")
        inputs = _taken(inputs, self.inputs, axis=2)
        if self.bias:
            inputs = jnp.concatenate([inputs, jnp.ones((*inputs.shape[:2], 1), inputs.dtype)], axis=2)
        return inputs, _taken(gradients, self.units, axis=2)


def nothing_read(params: Tree) -> Reading:
    """Of a network that is to be differentiated."""
    size = tree.dimension(params)
    return Reading((), np.zeros(size, int), np.ones(size, bool))


def alike(apply_fn: Callable, params: Tree, x: Any, other: Any) -> bool:
    """Whether the network is made of the same operations for two numbers of examples."""
    if len(jax.tree.leaves(x)[0]) == len(jax.tree.leaves(other)[0]):
        return True
    first, second = (_operations(jax.make_jaxpr(apply_fn)(params, examples).jaxpr) for examples in (x, other))
    return first == second


def _operations(jaxpr: Any) -> list[Any]:
    """Names of primitives, with those inside of each."""
    return [
        (equation.primitive.name, list(map(_operations, core.jaxprs_in_params(equation.params))))
        for equation in jaxpr.eqns
    ]


def read(apply_fn: Callable, params: Tree, x: Any) -> Reading:
    """How the network uses its parameters. Traces it, computes nothing."""
    uses: list[Use] = []
    last: list[int] = []
    unknown = np.zeros(tree.dimension(params), bool)

    def note(params: Tree, x: Any) -> None:
        found = _evaluate(apply_fn, params, x, None)
        uses[:], unknown[:], last[:] = found.uses, found.unknown, found.last

    jax.eval_shape(note, params, x)
    counts = np.zeros(unknown.size, int)
    for use in uses:
        np.add.at(counts, use.labels.ravel(), 1)
    return Reading(tuple(uses), counts, unknown, tuple(last))


def features(number: int, apply_fn: Callable, params: Tree, x: Any) -> Float[Array, "B I"]:
    """The inputs of a dense use at one place of each example."""
    return _evaluate(apply_fn, params, x, None).inputs[number][:, 0]


def factorise(reading: Reading, apply_fn: Callable, params: Tree, x: Any, root: Root) -> tuple[Array, list[Factors]]:
    """The outputs, and inputs and output gradients of every use for the columns of S; memory O(B·C·width).

    Args:
        root: outputs [B, C] → S [B, C, r].
    """

    def forward(probes: Sequence[Array]) -> tuple[Array, list]:
        found = _evaluate(apply_fn, params, x, probes)
        return found.outputs, found.inputs

    size = jax.tree.leaves(x)[0].shape[0]
    probes = [jnp.zeros(use.result(size), use.probe.dtype) for use in reading.uses]
    outputs, backward, inputs = jax.vjp(forward, probes, has_aux=True)
    (gradients,) = jax.vmap(backward, out_axes=-1)(jnp.moveaxis(root(outputs), 2, 0))
    return outputs, [
        Factors(value, jax.vmap(use.canonical, in_axes=-1, out_axes=-1)(gradient))
        for use, value, gradient in zip(reading.uses, inputs, gradients, strict=True)
    ]


def gradients(
    reading: Reading, apply_fn: Callable, params: Tree, x: Any, factors: Sequence[Factors], uses: Sequence[int]
) -> Tree:
    """Of some uses, the sums over positions of input ⊗ output gradient in their places, zero elsewhere: a stack of B·r
    vectors. Of all uses, where no parameter is used in an unknown way, JᵢᵀSᵢ example by example."""

    def of_use(number: int) -> Array:
        inputs, cotangents = factors[number]
        if reading.uses[number].kind == "dense" and inputs is not None:
            found = jnp.einsum("bti,btor->brio", inputs, cotangents, precision=tree.HIGHEST)
        else:
            each = cotangents if inputs is None else inputs[..., None] * cotangents
            found = jnp.moveaxis(jnp.sum(each, axis=1), -1, 1)
        return found.reshape(-1, *found.shape[2:])

    arrays = {number: of_use(number) for number in uses}
    # A bias that was broadcast to the examples is put in its place by hand: the transpose would sum over them again.
    small = [number for number in uses if reading.uses[number].kind != "dense"]
    places = find_places([reading.uses[number].labels for number in small], params)
    if places is None:
        return jax.vmap(_to_parameters(apply_fn, params, x, uses))([arrays[number] for number in uses])
    dense = [number for number in uses if number not in small]
    if dense:
        stack = jax.vmap(_to_parameters(apply_fn, params, x, dense))([arrays[number] for number in dense])
    else:
        stack = tree.zeros(params, len(arrays[small[0]]))
    leaves, structure = jax.tree.flatten(stack)
    for number, place in _zip(small, places):
        leaf = leaves[place.leaf]
        flat = leaf.reshape(len(leaf), -1).at[:, place.elements].add(arrays[number].astype(leaf.dtype))
        leaves[place.leaf] = flat.reshape(leaf.shape)
    return structure.unflatten(leaves)


def _to_parameters(apply_fn: Callable, params: Tree, x: Any, uses: Sequence[int]) -> Callable[[Sequence[Array]], Tree]:
    """From an array for each of some uses to its places among the parameters, summed where they have several."""
    # Linear: each of its results only selects and moves parameters.
    _, pull = jax.vjp(lambda p: list(map(_evaluate(apply_fn, p, x, None).weights.__getitem__, uses)), params)
    return lambda arrays: pull(list(arrays))[0]


class _Value(NamedTuple):
    """A value in the jaxpr.

    Attributes:
        value: the array.
        examples: whether it depends on examples.
        axis: which of its axes counts the examples, None if none does.
        labels: if it is parameters selected and moved, which ones; an array of its shape.
        product: if it is the result of a dense use selected and moved, that use's number and its outputs' numbers.
        layer: if it is, output by output, the result of a dense use and a bias, the numbers of both.
    """

    value: Any
    examples: bool
    axis: Any
    labels: Any = None
    product: tuple[int, np.ndarray] | None = None
    layer: tuple[int, ...] = ()

    @property
    def last(self) -> tuple[int, ...]:
        """The uses that it is the sum of, if it is outputs [B, C]."""
        if self.layer or self.product is None:
            return self.layer
        number, numbers = self.product
        same = numbers.ndim == 2 and self.axis == 0 and (numbers == np.arange(numbers.shape[1])).all()
        return (number,) if same else ()


class _Evaluation(NamedTuple):
    outputs: Array
    inputs: list[Any]
    weights: list[Any]
    uses: list[Use]
    unknown: np.ndarray
    last: tuple[int, ...]


def _evaluate(apply_fn: Callable, params: Tree, x: Any, probes: Sequence[Array] | None) -> _Evaluation:
    """Run the network and note every use; with ``probes`` added to the results if there are any.

    The axis that counts the examples is the one that is longer in the jaxpr of a larger batch: of the one that was
    asked whether it couples them, so that the network is not traced again.
    """
    size = len(jax.tree.leaves(x)[0])
    larger = next(iter(other_numbers(params, x)), size)
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((larger, *leaf.shape[1:]), leaf.dtype), x)
    closed = jax.make_jaxpr(apply_fn)(params, x)
    try:
        other = jax.make_jaxpr(apply_fn)(params, many)
    except (TypeError, ValueError, AssertionError):  # a network for even batches, say: no axis is found, nothing read
        other = closed
    unknown = np.zeros(tree.dimension(params), bool)
    inputs, weights, uses = [], [], []

    def record(found: "_Found", result: Array, axis: Any) -> _Value:
        use = Use(found.kind, found.labels, None, found.positions, _shape(result), found.order)
        number = len(uses)
        if probes is not None:
            result = result + probes[number]
        inputs.append(found.inputs)
        weights.append(found.weight)
        uses.append(use)
        product = None
        if found.kind == "dense":
            sizes = [
                1 if index < len(use.order) - found.outputs else result.shape[a] for index, a in enumerate(use.order)
            ]
            numbers = np.arange(use.labels.shape[1]).reshape(sizes).transpose(np.argsort(use.order))
            product = number, np.broadcast_to(numbers, result.shape)
        layer = ()
        if found.partner is not None and use.order == (0, 1) and (np.diff(found.partner[1]) == 1).all():
            layer = found.partner[0], number
        return _Value(result, True, axis, product=product, layer=layer)

    def step(jaxpr: Any, equation: Any, twin: Any, values: list[_Value]) -> list[_Value]:
        name, options = equation.primitive.name, equation.params
        parameters = [v for v in values if v.labels is not None]
        if parameters and name in _CALLS:
            return run(*_inner(equation), *_inner(twin), values)
        examples = any(v.examples for v in values)
        if name == "stop_gradient":
            return [_Value(jax.lax.stop_gradient(v.value), v.examples, v.axis) for v in values]
        results = _execute(jaxpr, equation, [v.value for v in values])
        axes = [
            _axis(a.aval.shape, b.aval.shape, larger - size) if examples else None
            for a, b in _zip(equation.outvars, twin.outvars)
        ]
        plain = [_Value(result, examples, axis) for result, axis in _zip(results, axes)]
        if not parameters:
            if len(values) == 1 and values[0].layer and name == "convert_element_type":
                return [v._replace(layer=values[0].layer) for v in plain]
            if len(values) == 1 and values[0].product is not None and name in _MOVES:
                number, numbers = values[0].product
                moved = _MOVES[name](numbers, options)
                return [v._replace(product=(number, m)) for v, m in _zip(plain, moved)]
            return plain
        if not examples and name in _MOVES:
            return [v._replace(labels=m) for v, m in _zip(plain, _MOVES[name](parameters[0].labels, options))]
        found = _pair(name, options, values, results[0], axes[0]) if examples and axes[0] is not None else None
        if found is None:
            for parameter in parameters:
                unknown[parameter.labels.ravel()] = True
            return plain
        if found.partner is not None:
            number, order = found.partner
            if len(order) == uses[number].labels.shape[1]:
                uses[number] = uses[number]._replace(bias=found.labels[order])
        return [record(found, results[0], axes[0])]

    def run(jaxpr: Any, consts: Sequence[Any], twin: Any, _: Any, values: Sequence[_Value]) -> list[_Value]:
        environment: dict[Any, _Value] = {}

        def look_up(variable: Any) -> _Value:
            if isinstance(variable, core.Literal):
                return _Value(variable.val, False, None)
            return environment[variable]

        names = [[equation.primitive.name for equation in each.eqns] for each in (jaxpr, twin)]
        if names[0] != names[1]:  # the network looks at the number of examples
            for value in values:
                if value.labels is not None:
                    unknown[value.labels.ravel()] = True
            values = [value._replace(labels=None, axis=None) for value in values]
            twin = jaxpr
        environment.update((variable, _Value(const, False, None)) for variable, const in _zip(jaxpr.constvars, consts))
        environment.update(_zip(jaxpr.invars, values))
        for equation, other in _zip(*_alive(jaxpr, twin)):
            found = step(jaxpr, equation, other, [look_up(variable) for variable in equation.invars])
            environment.update(_zip(equation.outvars, found))
        return [look_up(variable) for variable in jaxpr.outvars]

    starts = np.cumsum([0] + [math.prod(leaf.shape) for leaf in jax.tree.leaves(params)])
    arguments = [
        _Value(leaf, False, None, np.arange(start, start + math.prod(leaf.shape)).reshape(leaf.shape))
        for leaf, start in zip(jax.tree.leaves(params), starts, strict=False)
    ] + [_Value(leaf, True, 0) for leaf in jax.tree.leaves(x)]
    (output,) = run(closed.jaxpr, closed.consts, other.jaxpr, other.consts, arguments)
    return _Evaluation(output.value, inputs, weights, uses, unknown, output.last)


class _Found(NamedTuple):
    """A recognised use: see :class:`Use`. ``outputs`` is how many of the last axes in ``order`` are outputs."""

    kind: str
    inputs: Any
    weight: Any
    labels: np.ndarray
    positions: int
    order: tuple[int, ...]
    outputs: int
    partner: tuple[int, np.ndarray] | None = None


def _pair(name: str, options: dict, values: list[_Value], result: Array, axis: int) -> _Found | None:
    """The use that an operation with a parameter and an example is, or None."""
    if len(values) != 2 or values[0].examples == values[1].examples:
        return None
    example, parameter = values if values[0].examples else values[::-1]
    if example.axis is None or parameter.labels is None:
        return None
    if name == "dot_general":
        return _product(options, example, parameter, parameter is values[1])
    if name == "conv_general_dilated" and parameter is values[1]:
        return _convolution(options, example, parameter)
    if name == "sub" and parameter is values[1]:  # its gradient has the other sign, so it is no layer's bias
        found = _elementwise("bias", example._replace(product=None), parameter, result, axis)
        if found is None:
            return None
        minus = jnp.full((result.shape[axis], found.positions, found.labels.size), -1, result.dtype)
        return found._replace(kind="scale", inputs=minus)
    if name in ("add", "add_any", "mul"):
        return _elementwise("scale" if name == "mul" else "bias", example, parameter, result, axis)
    return None


def _product(options: dict, example: _Value, parameter: _Value, on_the_right: bool) -> _Found | None:
    (contract, batch) = options["dimension_numbers"]
    if batch[0] or batch[1]:
        return None
    summed, rows = contract if on_the_right else contract[::-1]
    if example.axis in summed:
        return None
    places = [a for a in range(example.value.ndim) if a not in summed and a != example.axis]
    columns = [a for a in range(parameter.value.ndim) if a not in rows]
    kept = sorted([example.axis, *places])  # the example's axes in the result, in this order
    before = 0 if on_the_right else len(columns)
    after = len(kept) if on_the_right else 0
    order = [before + kept.index(a) for a in (example.axis, *places)] + [after + i for i in range(len(columns))]
    size = example.value.shape[example.axis]
    positions = math.prod(example.value.shape[a] for a in places)
    width = math.prod(example.value.shape[a] for a in summed)
    inputs = example.value.transpose(example.axis, *places, *summed).reshape(size, positions, width)
    matrix = (*rows, *columns)
    return _Found(
        "dense",
        inputs,
        parameter.value.transpose(matrix).reshape(width, -1),
        parameter.labels.transpose(matrix).reshape(width, -1),
        positions,
        tuple(order),
        len(columns),
    )


def _convolution(options: dict, example: _Value, parameter: _Value) -> _Found | None:
    numbers = options["dimension_numbers"]
    grouped = options["feature_group_count"] > 1 or options["batch_group_count"] > 1
    if grouped or example.axis != numbers.lhs_spec[0]:
        return None
    out, inward, *spatial = numbers.rhs_spec
    patches = jax.lax.conv_general_dilated_patches(
        example.value,
        [parameter.value.shape[a] for a in spatial],
        options["window_strides"],
        options["padding"],
        options["lhs_dilation"],
        options["rhs_dilation"],
        dimension_numbers=numbers,
        precision=tree.HIGHEST,
    )
    batch, feature, *places = numbers.out_spec
    matrix = (inward, *spatial, out)
    width = math.prod(parameter.value.shape[a] for a in matrix[:-1])
    positions = math.prod(patches.shape[a] for a in places)
    return _Found(
        "dense",
        patches.transpose(batch, *places, feature).reshape(-1, positions, width),
        parameter.value.transpose(matrix).reshape(width, -1),
        parameter.labels.transpose(matrix).reshape(width, -1),
        positions,
        (batch, *places, feature),
        1,
    )


def _elementwise(kind: str, example: _Value, parameter: _Value, result: Array, axis: int) -> _Found | None:
    shape = result.shape
    if (
        parameter.labels.ndim != len(shape)
        or example.value.ndim != len(shape)
        or example.value.shape[axis] != shape[axis]
    ):
        return None
    labels = np.broadcast_to(parameter.labels, shape)
    first = labels.take([0], axis=axis)
    shared = [a for a in range(len(shape)) if a == axis or (first == first.take([0], axis=a)).all()]
    places = [a for a in shared if a != axis]
    columns = [a for a in range(len(shape)) if a not in shared]
    one = first[tuple(slice(0, 1) if a in shared else slice(None) for a in range(len(shape)))].ravel()
    if len(np.unique(one)) < len(one) or (labels != first).any():
        return None
    order = (axis, *places, *columns)
    positions = math.prod(shape[a] for a in places)
    spread = jnp.broadcast_to(parameter.value, shape).transpose(order).reshape(shape[axis], positions, -1)
    inputs, partner = None, None
    if kind == "scale":
        inputs = jnp.broadcast_to(example.value, shape).transpose(order).reshape(shape[axis], positions, -1)
    elif example.product is not None and example.value.shape == shape:
        number, numbers = example.product
        of_each = np.broadcast_to(numbers, shape).take([0], axis=axis)
        outputs = of_each[tuple(slice(0, 1) if a in shared else slice(None) for a in range(len(shape)))].ravel()
        if len(np.unique(outputs)) == len(one) == of_each.max() + 1 and (of_each == of_each.take([0], axis=axis)).all():
            partner = number, np.argsort(outputs)
    return _Found(kind, inputs, spread[0, 0], one, positions, order, len(columns), partner)


def _layer_use(number: int, use: Use, place: np.ndarray, positions: np.ndarray) -> LayerUse | None:
    """How a dense use is the layer whose parameters ``place`` numbers, row by row, or None."""
    units, width = positions.shape
    if use.kind != "dense":
        return None
    rows = len(use.labels)
    biased = rows + 1 == width
    if use.labels.shape[1] != units or not (rows == width or (biased and use.bias is not None)):
        return None
    found = place[use.labels]
    unit, inward = np.divmod(found, width)
    if (found < 0).any() or (unit != unit[0]).any() or (inward != inward[:, :1]).any():
        return None
    if biased and (place[use.bias] != unit[0] * width + rows).any():
        return None
    return LayerUse(number, biased, np.argsort(inward[:, 0]), np.argsort(unit[0]))


def _taken(array: Array, order: np.ndarray, axis: int) -> Array:
    return array if (order == np.arange(len(order))).all() else jnp.take(array, order, axis=axis)


# Calls whose inside is read: (name of the parameter with the jaxpr).
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr", "remat": "jaxpr"}


def _inner(equation: Any) -> tuple[Any, Sequence[Any]]:
    inner = equation.params[_CALLS[equation.primitive.name]]
    return (inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, ())


def _alive(jaxpr: Any, twin: Any) -> tuple[list[Any], list[Any]]:
    """The equations that the outputs depend on, of two jaxprs that are alike."""
    wanted = {variable for variable in jaxpr.outvars if not isinstance(variable, core.Literal)}
    kept = []
    for pair in reversed(list(_zip(jaxpr.eqns, twin.eqns))):
        if wanted.intersection(pair[0].outvars) or pair[0].effects:
            wanted.update(v for v in pair[0].invars if not isinstance(v, core.Literal))
            kept.append(pair)
    return [pair[0] for pair in reversed(kept)], [pair[1] for pair in reversed(kept)]


def _execute(jaxpr: Any, equation: Any, values: list[Any]) -> list[Any]:
    """The results of one equation of a jaxpr, evaluated as a jaxpr of its own."""
    read = {v: value for v, value in _zip(equation.invars, values) if not isinstance(v, core.Literal)}
    single = jaxpr.replace(constvars=[], invars=list(read), outvars=equation.outvars, eqns=[equation])
    return core.jaxpr_as_fun(core.ClosedJaxpr(single, ()))(*read.values())


def _axis(shape: tuple[int, ...], longer: tuple[int, ...], more: int) -> int | None:
    different = [axis for axis, (a, b) in enumerate(_zip(shape, longer)) if a != b]
    return different[0] if len(different) == 1 and longer[different[0]] == shape[different[0]] + more else None


def _spread(labels: np.ndarray, options: dict) -> np.ndarray:
    shape, kept = options["shape"], options["broadcast_dimensions"]
    sizes = dict(_zip(kept, labels.shape))
    return np.broadcast_to(labels.reshape([sizes.get(axis, 1) for axis in range(len(shape))]), shape)


def _slices(options: dict) -> tuple[slice, ...]:
    strides = options["strides"] or (1,) * len(options["start_indices"])
    return tuple(map(slice, options["start_indices"], options["limit_indices"], strides))


def _shape(array: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)
