"""The generalised Gauss-Newton matrix of a data set, as products that never build it.

H = Σᵢ JᵢᵀSᵢSᵢᵀJᵢ. Every product runs over micro-batches in a ``lax.scan``: memory grows with the micro-batch and the
number of directions, not with the number of examples.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.partition import Group, Layout
from lowrank_filter.algebra.precision import Curvature, KroneckerFactors
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.kernels.examples import Apply, Batch
from lowrank_filter.kernels.expansion import Roots, roots
from lowrank_filter.kernels.likelihoods import Likelihood
from lowrank_filter.kernels.linearisation import Linearisation
from lowrank_filter.kernels.network_reader import LayerUse, Reading, Root

# Numbers held at once for the examples of a micro-batch, beyond which it is cut: 16 MiB of float32.
_NUMBERS = 2**22

# Columns of a root held at once: all of a likelihood with few outputs, and never C×C of one with many.
_COLUMNS = 64

_einsum = functools.partial(jnp.einsum, precision=tree.HIGHEST)


def curvature(
    params: Tree,
    apply_fn: Apply,
    likelihood: Likelihood,
    batch: Batch,
    temperature: ArrayLike,
    batch_size: int,
    sampled: int | None = None,
) -> Curvature:
    """H at ``params``, summed over the batch and divided by the temperature.

    With ``sampled``, its diagonal and its Kronecker factors are those of Σᵢ JᵢᵀSᵢΩᵢΩᵢᵀSᵢᵀJᵢ/n with n columns of random
    signs Ωᵢ, E ΩᵢΩᵢᵀ = n I: as many gradients an example, whatever the number of its outputs.
    """
    size = len(batch.mask)
    width = jax.eval_shape(lambda p: likelihood.root(apply_fn(p, batch.x)[0], batch.y[0]), params).shape[1]
    columns_at_once = min(width, _COLUMNS)
    per_example_gradients = columns_at_once * tree.dimension(params)
    if sampled is not None and sampled >= width:
        sampled = None

    linear = Linearisation(apply_fn, params, batch.x, batch_size)

    def root_of(part: Batch, index: Int[Array, " n"]) -> Callable[[Array], Float[Array, "B C n"]]:
        return lambda value: roots(likelihood, value, part, temperature, width).columns(index)

    def over_columns(step: Callable) -> Callable:
        """A step that sums over some columns of the roots, over all of them."""

        def all_columns(part: Batch) -> Any:
            if width <= _COLUMNS:
                return step(part, jnp.arange(width))
            indices = jnp.arange(-(-width // _COLUMNS) * _COLUMNS).reshape(-1, _COLUMNS)
            start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(step, part, indices[0]))
            add = functools.partial(jax.tree.map, jnp.add)
            return jax.lax.scan(lambda total, index: (add(total, step(part, index)), None), start, indices)[0]

        return all_columns

    def over(step: Callable, like: Any, numbers: int, *extra: Array) -> Any:
        """Σ over micro-batches of ``step(batch, extra)``, where an example takes so many numbers."""

        def body(total: Any, part: tuple) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, step(*part)), None

        chunk = max(1, min(batch_size, _NUMBERS // numbers))
        return jax.lax.scan(body, like, _split((batch, *extra), size, chunk))[0]

    def over_roots(step: Callable, like: Any, numbers: Callable[[int], int]) -> Any:
        """Σ over micro-batches of ``step(batch, root, first)``, with all columns of the roots or with those sampled."""
        if sampled is None:

            def with_columns(part: Batch, index: Int[Array, " n"]) -> Any:
                return step(part, root_of(part, index), index[0] == 0)

            return over(over_columns(with_columns), like, numbers(columns_at_once))
        scale = sampled**-0.5
        signs = functools.partial(_signs, shape=(sampled, width), dtype=jnp.result_type(*jax.tree.leaves(params)))

        def with_signs(part: Batch, number: Int[Array, " B"]) -> Any:
            def root(value: Array) -> Array:
                times = roots(likelihood, value, part, temperature, width).times
                return jax.vmap(times, in_axes=1, out_axes=2)(jax.vmap(signs)(number)) * scale

            return step(part, root, True)

        return over(with_signs, like, numbers(sampled), jnp.arange(size))

    def linearised(part: Batch) -> tuple[Roots, Callable, Callable]:
        """The roots, and the network's derivative and its transpose."""
        outputs, forward, backward = linear.products(part.x)
        return roots(likelihood, outputs, part, temperature, width), forward, backward

    def root_products() -> tuple[Callable[[Array], Tree], Callable[[Tree], Array]]:
        def pulled(root: Roots, backward: Callable, weights: Array) -> Tree:
            return jax.vmap(lambda w: backward(root.times(w)))(weights)

        def pushed(root: Roots, forward: Callable, stack: Tree) -> Array:
            return jax.vmap(lambda vector: root.transposed_times(forward(vector)))(stack)

        if size <= batch_size:
            root, forward, backward = linearised(batch)
            return functools.partial(pulled, root, backward), functools.partial(pushed, root, forward)

        def pull(weights: Float[Array, "n B r"]) -> Tree:
            def step(part: Batch, weights: Array) -> Tree:
                root, _, backward = linearised(part)
                return pulled(root, backward, jnp.moveaxis(weights, 1, 0))

            return over(step, tree.zeros(params, len(weights)), 1, jnp.moveaxis(weights, 1, 0))

        def push(stack: Tree) -> Float[Array, "n B r"]:
            def step(part: Batch) -> Array:
                root, forward, _ = linearised(part)
                return pushed(root, forward, stack)

            (parts,) = _split((batch,), size, batch_size)
            found = jnp.moveaxis(jax.lax.map(step, parts), 0, 1)
            return found.reshape(len(found), -1, width)[:, :size]

        return pull, push

    def block_product(
        layout: Layout, stacks: tuple[Float[Array, "_U n _m"], ...]
    ) -> tuple[Float[Array, "_U n _m"], ...]:
        covers = {group: _covers(linear.reading, layout, group) for group in layout.groups}
        unused = {group for group in layout.groups if linear.reading.unused(layout.positions(group))}
        unread = tuple(group for group in layout.groups if not covers[group] and group not in unused)

        def step(part: Batch, index: Array) -> tuple[Array, ...]:
            root = root_of(part, index)
            _, factors = linear.factors(part.x, root)
            columns = _blocks_of_columns(linear, part, root, layout, unread) if unread else {}
            return tuple(
                _layer_product(group, [cover.apply(factors) for cover in covers[group]], stack)
                if covers[group]
                else jnp.zeros_like(stack)
                if group in unused
                else _column_product(columns[group], stack)
                for group, stack in zip(layout.groups, stacks, strict=True)
            )

        directions = stacks[0].shape[1]
        read_numbers = max(
            (
                use.positions * (sum(use.labels.shape) * (columns_at_once + 1) + use.labels.shape[-1] * directions)
                for use in linear.reading.uses
            ),
            default=1,
        )
        numbers = per_example_gradients if unread else read_numbers
        return over(over_columns(step), jax.tree.map(jnp.zeros_like, stacks), numbers)

    def kronecker(layout: Layout, reduce: bool) -> dict[Group, KroneckerFactors]:
        covers = {group: _covers(linear.reading, layout, group) for group in layout.groups if group.layer}
        for group, found in covers.items():
            if not found and not linear.reading.unused(layout.positions(group)):
                raise ValueError(
                    f"{group.name}: expected a layer whose kernel multiplies its inputs or is convolved with them, and "
                    "whose bias is added to the result; the network uses it in another way. Leave it out, or correct "
                    "it, with layers= (see find_layers)"
                )

        def step(part: Batch, root: Root, first: Bool[Array, ""] | bool) -> tuple[dict[Group, KroneckerFactors], Array]:
            outputs, factors = linear.factors(part.x, root)
            # The examples' side belongs to all columns together.
            counted = (roots(likelihood, outputs, part, temperature, width).scale > 0) & first
            counts = counted * (1.0 if part.weights is None else part.weights)
            factors = {
                group: _kronecker_sums([cover.apply(factors) for cover in found], counts, reduce)
                if found
                else zeros(group)
                for group, found in covers.items()
            }
            return factors, jnp.sum(counts)

        def zeros(group: Group) -> KroneckerFactors:
            units, inputs = layout.positions(group).shape
            dtype = jnp.result_type(*jax.tree.leaves(params))
            return KroneckerFactors(jnp.zeros((units, units), dtype), jnp.zeros((inputs, inputs), dtype))

        def numbers(columns: int) -> int:
            return max(
                (use.positions * sum(use.labels.shape) * (columns + 1) for use in linear.reading.uses), default=1
            )

        sums, examples = over_roots(step, ({group: zeros(group) for group in covers}, jnp.zeros(())), numbers)
        places = {group: 1 if reduce else _places(linear.reading, found) for group, found in covers.items()}
        return {
            group: KroneckerFactors(units, inputs / jnp.maximum(examples * places[group], 1))
            for group, (units, inputs) in sums.items()
        }

    def start(count: int) -> Float[Array, "n B r"]:
        columns, dtype = size * width, jnp.result_type(*jax.tree.leaves(params))
        if count == columns:
            return jnp.eye(columns, dtype=dtype).reshape(columns, size, width)
        # The same numbers as in that shape, whose counters take a compiler ten times as long.
        return jax.random.normal(jax.random.key(0), (count * columns,), dtype).reshape(count, size, width)

    def diagonal() -> Tree:
        def step(part: Batch, root: Root, _: Any) -> Tree:
            return linear.diagonal(part.x, root)

        leaves = jax.tree.leaves(params)
        built = sum(leaves[number].size for number in linear.built)
        return over_roots(step, tree.zeros(params), lambda columns: max(1, columns * built))

    def within(choose: Callable[[Tree], Tree], complete: Callable[[Tree, Tree], Tree]) -> Curvature:
        def of_some(some: Tree, x: Any) -> Array:
            return apply_fn(complete(some, params), x)

        return curvature(choose(params), of_some, likelihood, batch, temperature, batch_size, sampled)

    columns = size * width
    return Curvature(root_products, block_product, kronecker, start, diagonal, within, columns, width, params)


def _signs(number: Int[Array, ""], *, shape: tuple[int, int], dtype: Any) -> Float[Array, "n r"]:
    """Of an example, by its number: the same in whatever micro-batch it is met."""
    return jax.random.rademacher(jax.random.fold_in(jax.random.key(0), number), shape, dtype)


def _covers(reading: Reading, layout: Layout, group: Group) -> list[LayerUse]:
    """The uses that are a layer's, where it is one and they all are of the kind that is known."""
    return reading.layer_uses(layout.matrix(layout.positions(group), group)) if group.layer else []


def _places(reading: Reading, covers: Sequence[LayerUse]) -> int:
    """Over how many places of an example a layer's weights are shared."""
    return sum(reading.uses[cover.use].positions for cover in covers)


def _layer_product(
    group: Group, uses: Sequence[tuple[Float[Array, "B _T i"], Float[Array, "B _T u r"]]], stack: Float[Array, "U n m"]
) -> Float[Array, "U n m"]:
    """Σ JᵢᵀSᵢSᵢᵀJᵢ V for a layer's block, or for each of its units' blocks: Jᵢ's rows are Σ_t input ⊗ gradient."""
    if group.merged:
        units = uses[0][1].shape[2]
        matrices = jnp.moveaxis(stack.reshape(stack.shape[1], units, -1), 1, 0)
    else:
        matrices = stack
    changes = [_einsum("bti,uni->btun", inputs, matrices) for inputs, _ in uses]
    if len(uses) == 1 and not group.merged and uses[0][0].shape[1] == 1:
        weighted = [changes[0] * jnp.sum(uses[0][1] ** 2, axis=-1)[..., None]]
    else:
        over = "bnr" if group.merged else "bunr"
        projected = sum(_einsum(f"btun,btur->{over}", c, g) for c, (_, g) in zip(changes, uses, strict=True))
        weighted = [_einsum(f"{over},btur->btun", projected, gradients) for _, gradients in uses]
    total = sum(_einsum("btun,bti->uni", w, inputs) for w, (inputs, _) in zip(weighted, uses, strict=True))
    return jnp.moveaxis(jnp.asarray(total), 0, 1).reshape(stack.shape) if group.merged else jnp.asarray(total)


def _column_product(columns: Float[Array, "B r U m"], stack: Float[Array, "U n m"]) -> Float[Array, "U n m"]:
    return _einsum("brum,brun->unm", columns, _einsum("brum,unm->brun", columns, stack))


def _blocks_of_columns(
    linear: Linearisation, part: Batch, root: Root, layout: Layout, groups: Sequence[Group]
) -> dict[Group, Float[Array, "B r U m"]]:
    """JᵢᵀSᵢ for each example and root, cut into the blocks of some groups."""
    _, columns = linear.columns(part.x, root)
    blocks = map(jax.vmap(layout.split), [columns.stack()])
    examples = len(part.usable)
    return {
        group: block.reshape(examples, -1, *block.shape[1:])
        for group, block in zip(layout.groups, *blocks, strict=True)
        if group in groups
    }


def _kronecker_sums(
    uses: Sequence[tuple[Float[Array, "B _T i"], Float[Array, "B _T u r"]]], counts: Array, reduce: bool
) -> KroneckerFactors:
    """Σ g gᵀ and Σ a aᵀ over examples, roots and positions, or over examples of summed gradients and mean inputs."""
    if reduce:
        places = sum(inputs.shape[1] for inputs, _ in uses)
        inputs = sum(jnp.sum(a, axis=1, keepdims=True) for a, _ in uses) / places
        gradients = sum(jnp.sum(g, axis=1, keepdims=True) for _, g in uses)
        uses = [(jnp.asarray(inputs), jnp.asarray(gradients))]
    units = sum(_einsum("btur,btvr->uv", g, g) for _, g in uses)
    outer = sum(_einsum("bti,btj,b->ij", a, a, counts.astype(a.dtype)) for a, _ in uses)
    return KroneckerFactors(jnp.asarray(units), jnp.asarray(outer))


def _split(examples: tuple, size: int, batch_size: int) -> tuple:
    """[B, …] as [parts, batch_size, …], the last part filled up with the last example, not counted again."""
    parts = -(-size // batch_size)
    position = jnp.arange(parts * batch_size)
    batch, *extra = jax.tree.map(lambda leaf: leaf[jnp.minimum(position, size - 1)], examples)
    batch = batch._replace(usable=batch.usable & (position < size))
    return jax.tree.map(lambda leaf: leaf.reshape(parts, batch_size, *leaf.shape[1:]), (batch, *extra))
