"""Where a network's parameters meet its examples, read off its jaxpr.

The gradient of a dense layer's weight for one example is an outer product of the layer's input and the gradient at its
output. So sums over examples of squares (and, for other structures, of Kronecker factors) need the two small arrays
and not the gradients. They are found by evaluating the network's jaxpr and adding a zero *probe* to the result of every
operation in which a parameter meets an example: the gradient with respect to the probe is the gradient at that place.
No copy of the model is written, and any ``apply_fn`` will do.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.tree import Tree

# Operations that only select and move parameters, each of them at most once for an example.
_MOVES = {"reshape", "transpose", "slice", "squeeze", "split", "convert_element_type", "copy", "copy_p"}


class UnsupportedError(Exception):
    """Parameters meet examples in a way that is not known; callers fall back to gradients of single examples."""


class _Value(NamedTuple):
    """A value in the jaxpr, and whether it depends on examples, or is parameters selected and moved."""

    value: Any
    per_example: bool
    moved: bool


class _Meeting(NamedTuple):
    """One operation of a parameter with examples: its kind, the examples' side [B, in], and the moved parameter."""

    kind: str
    activation: Any
    weight: Any
    transposed: bool


def diagonal(apply_fn: Callable, params: Tree, x: Any, root: Callable[[Array], Float[Array, "B C r"]]) -> Tree:
    """diag(Σᵢ JᵢᵀSᵢSᵢᵀJᵢ) exactly, from layer inputs and output gradients; memory O(B·C·width).

    Args:
        root: outputs [B, C] → S [B, C, r].

    Raises:
        UnsupportedError: a parameter is used otherwise than in a dense layer, a bias or a scale of [B, width] values.
    """
    shapes, weights = _trace(apply_fn, params, x)

    def forward(probes: Sequence[Array]) -> tuple[Array, tuple]:
        outputs, meetings, _ = _evaluate(apply_fn, params, x, probes)
        return outputs, tuple(meeting.activation for meeting in meetings)

    probes = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
    outputs, backward, activations = jax.vjp(forward, probes, has_aux=True)
    cotangents = jnp.moveaxis(root(outputs), 2, 0)
    (gradients,) = jax.vmap(backward)(cotangents)
    squares = []
    for (kind, shape, transposed), activation, gradient in zip(weights.uses, activations, gradients, strict=True):
        square = jnp.sum(gradient**2, axis=0)
        if kind == "dense":
            outer = jnp.matmul((activation**2).T, square, precision=tree.HIGHEST)
            squares.append(outer.T if transposed else outer)
        else:
            each = square if kind == "bias" else activation**2 * square
            squares.append(each if shape == each.shape else jnp.sum(each, axis=0, keepdims=True))
    return weights.pull_back(squares)


class _Weights(NamedTuple):
    """How each moved parameter is used (kind, shape, transposed), and the way back to the parameters."""

    uses: tuple[tuple[str, tuple[int, ...], bool], ...]
    pull_back: Callable[[Sequence[Array]], Tree]


def _trace(apply_fn: Callable, params: Tree, x: Any) -> tuple[list, _Weights]:
    """Shapes of the probes, and the linear map from the moved parameters back to the parameters."""
    shapes, uses = [], []

    def moved(p: Tree) -> list[Array]:
        _, meetings, results = _evaluate(apply_fn, p, x, None)
        shapes[:] = [jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results]
        uses[:] = [(meeting.kind, jnp.shape(meeting.weight), meeting.transposed) for meeting in meetings]
        return [meeting.weight for meeting in meetings]

    _, pull = jax.vjp(moved, params)  # linear: each of its results only selects and moves parameters
    with jax.ensure_compile_time_eval():
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (params, x))
        weights, count = jax.vjp(lambda p: _moved_parameters(apply_fn, p, zeros[1]), zeros[0])
        one_example = [
            jnp.ones_like(weight) if kind == "dense" else jnp.zeros_like(weight).at[0].set(1)
            for (kind, _, _), weight in zip(uses, weights, strict=True)
        ]
        shared = max(float(jnp.max(leaf, initial=0)) for leaf in jax.tree.leaves(count(one_example)[0]))
    if shared > 1:  # squares of sums are not sums of squares
        raise UnsupportedError("a parameter is used more than once for an example")
    return shapes, _Weights(tuple(uses), lambda squares: pull(list(squares))[0])


def _moved_parameters(apply_fn: Callable, params: Tree, x: Any) -> list[Array]:
    return [meeting.weight for meeting in _evaluate(apply_fn, params, x, None)[1]]


def _evaluate(apply_fn: Callable, params: Tree, x: Any, probes: Sequence[Array] | None) -> tuple[Array, list, list]:
    """Outputs, the meetings in order, and their results; with ``probes`` added to the results if there are any."""
    size = jax.tree.leaves(x)[0].shape[0]
    closed = jax.make_jaxpr(apply_fn)(params, x)
    count = len(jax.tree.leaves(params))
    arguments = [
        _Value(value, per_example=index >= count, moved=index < count)
        for index, value in enumerate(jax.tree.leaves((params, x)))
    ]
    meetings, results = [], []

    def meet(kind: str, activation: Any, weight: Any, result: Any, transposed: bool = False) -> _Value:
        if result.ndim != 2 or result.shape[0] != size:
            raise UnsupportedError(f"{kind} with a result of shape {result.shape}")
        results.append(result)
        meetings.append(_Meeting(kind, activation, weight, transposed))
        if probes is not None:
            result = result + probes[len(results) - 1]
        return _Value(result, per_example=True, moved=False)

    def run(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[_Value]) -> list[_Value]:
        environment: dict[Any, _Value] = {}

        def read(variable: Any) -> _Value:
            if _is_variable(variable):
                return environment[variable]
            return _Value(variable.val, per_example=False, moved=False)

        for variable, const in zip(jaxpr.constvars, consts, strict=True):
            environment[variable] = _Value(const, per_example=False, moved=False)
        environment.update(zip(jaxpr.invars, inputs, strict=True))
        for equation in jaxpr.eqns:
            found = step(jaxpr, equation, [read(variable) for variable in equation.invars])
            environment.update(zip(equation.outvars, found, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def step(jaxpr: Any, equation: Any, values: list[_Value]) -> list[_Value]:
        name = equation.primitive.name
        if name in ("jit", "pjit", "closed_call"):
            inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
            return run(inner.jaxpr, inner.consts, values)
        per_example, moved = any(v.per_example for v in values), any(v.moved for v in values)
        outputs = _execute(jaxpr, equation, [v.value for v in values])
        if not moved:
            return [_Value(output, per_example, moved=False) for output in outputs]
        if not per_example:
            if name not in _MOVES and not (name == "broadcast_in_dim" and _over_examples(equation, size)):
                raise UnsupportedError(f"parameters through {name}")
            return [_Value(output, per_example=False, moved=True) for output in outputs]
        return [_pair(name, equation, values, outputs[0], meet)]

    (output,) = run(closed.jaxpr, closed.consts, arguments)
    return output.value, meetings, results


def _execute(jaxpr: Any, equation: Any, values: list[Any]) -> list[Any]:
    """The results of one equation of a jaxpr, evaluated as a jaxpr of its own."""
    read = {variable: value for variable, value in zip(equation.invars, values, strict=True) if _is_variable(variable)}
    single = jaxpr.replace(constvars=[], invars=list(read), outvars=equation.outvars, eqns=[equation])
    return core.jaxpr_as_fun(core.ClosedJaxpr(single, ()))(*read.values())


def _is_variable(atom: Any) -> bool:
    return not isinstance(atom, core.Literal)


def _pair(name: str, equation: Any, values: list[_Value], result: Any, meet: Callable) -> _Value:
    if len(values) == 2 and values[0].per_example != values[1].per_example:
        left, right = values
        example, weight = (left, right) if left.per_example else (right, left)
        if name == "dot_general" and left.per_example and left.value.ndim == right.value.ndim == 2:
            (contract_left, contract_right), (batch_left, _) = equation.params["dimension_numbers"]
            if tuple(contract_left) == (1,) and not batch_left:
                return meet("dense", example.value, weight.value, result, tuple(contract_right) == (1,))
        rows = (result.shape, (1, *result.shape[1:]))
        if weight.value.shape in rows and example.value.shape in (*rows, (*result.shape[:1], 1)):
            if name in ("add", "add_any") or (name == "sub" and left.per_example):
                return meet("bias", example.value, weight.value, result)
            if name == "mul":
                return meet("scale", example.value, weight.value, result)
    raise UnsupportedError(f"a parameter meets examples in {name}")


def _over_examples(equation: Any, size: int) -> bool:
    """Whether a broadcast repeats parameters over examples only: axes are new of length 1, or the leading one."""
    shape, kept = equation.params["shape"], equation.params["broadcast_dimensions"]
    operand = equation.invars[0].aval.shape
    source = dict(zip(kept, operand, strict=True))
    return all(source.get(axis, 1) == n or n == 1 or (axis == 0 and n == size) for axis, n in enumerate(shape))
