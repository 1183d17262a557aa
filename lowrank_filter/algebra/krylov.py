"""The leading eigenvectors of a curvature known only by its products."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.algebra.tree import Tree

Each = Callable[[Callable], Callable]


class Room(NamedTuple):
    """Static sizes of a Krylov space: ``blocks`` blocks of ``width`` vectors."""

    width: int
    blocks: int

    @property
    def vectors(self) -> int:
        """How many there are in all."""
        return self.width * self.blocks


def room(rank: int, roots: int, iterations: int | None) -> Room:
    """Room for the ``rank`` leading eigenvectors of a curvature with ``roots`` root columns for each example.

    Narrow blocks need the fewest products: of one 784-100-100-10 network's top 20 eigenvalues the last is within 1e-3
    after 43 vectors one by one, 68 by fours, 80 by tens, 100 by twenty-fives. But no more vectors of a repeated
    eigenvalue are found than a block has, and a linear layer with independent outputs repeats each as often as there
    are outputs.
    """
    wanted = rank + max(4, rank // 4)
    width = min(max(4, roots), wanted)
    if iterations is None:
        return Room(width, 2 - (-3 * rank // width))
    return Room(max(width, -(-wanted // (1 + iterations))), 1 + iterations)


def leading_columns(
    pull: Callable[[Array], Tree],
    push: Callable[[Tree], Array],
    start: Callable[[int], Array],
    scale: Tree | None,
    *,
    rank: int,
    room: Room,
    dimension: int,
) -> Tree:
    """W with W Wᵀ ≈ the best rank-``rank`` part of H = A Aᵀ, by block Krylov iteration in the space of A's columns.

    Works on K = AᵀS²A, whose eigenvalues are those of S A Aᵀ S, where S = diag(s); s = d^{-1/2} measures relative to a
    diagonal d. Vectors there have one number for each example and root, often far fewer than there are parameters.
    With Q an orthonormal basis of the Krylov space and V the leading eigenvectors of QᵀK Q, W = A Q V: H − W Wᵀ stays
    positive semi-definite, and A Q is what the products computed on the way.

    Gradients flow through A and the Ritz vectors within the subspace, not through the choice of the subspace.

    Args:
        pull: weights [n, B, r] to the stack A q of n vectors.
        push: a stack v of n vectors to Aᵀv [n, B, r].
        start: a number n to fixed random weights.
        scale: s, a positive vector, or None for ones.
        rank: the number of vectors kept.
        room: the number and width of the blocks.
        dimension: D.
    """
    complete = dimension <= room.vectors
    width, count = (dimension, 1) if complete else room
    scale = scale if complete else jax.lax.stop_gradient(scale)

    def product(block: Array) -> tuple[Array, tuple[Array, Tree]]:
        pulled = pull(block)
        weighted = pulled if scale is None else jax.tree.map(lambda v, s: v * (s * s), pulled, scale)
        image = push(weighted)
        return image, (image, pulled)

    # With room for all of K's range, one block that lies in it is all of it, and no subspace is chosen.
    first = jax.lax.stop_gradient(product(start(width))[0]) if complete else start(width)
    basis, (images, pulled) = _iterate(product, first, count)
    projected = tree.gram(basis, images)
    _, vectors = small_matrices.eigendecompose((projected + projected.T) / 2)
    return tree.pad(tree.combine(vectors.T[::-1][:rank], pulled), rank)


def leading_combinations(
    product: Callable[[Float[Array, "m n"]], Float[Array, "m n"]],
    start: Float[Array, "w n"],
    *,
    rank: int,
    blocks: int,
) -> tuple[Float[Array, "rank n"], Float[Array, " rank"]]:
    """Of n vectors known by their Gram matrix' products, the combinations that are the ``rank`` leading ones, and the
    squares of their lengths: by Rayleigh and Ritz in the Krylov space of ``blocks`` blocks like ``start``.

    Gradients flow as in :func:`leading_columns`.
    """
    basis, _ = _iterate(lambda block: (jax.lax.stop_gradient(product(block)), ()), jax.lax.stop_gradient(start), blocks)

    def projected(block: Array) -> Array:
        return tree.gram(basis, product(block))

    found = jax.lax.map(projected, basis.reshape(blocks, *start.shape))
    whole = jnp.moveaxis(found, 0, 1).reshape(len(basis), len(basis))
    values, vectors = small_matrices.eigendecompose((whole + whole.T) / 2)
    return tree.combine(vectors.T[::-1][:rank], basis), jnp.maximum(values[::-1][:rank], 0)


def leading(
    product: Callable[[Tree], Tree],
    seed: Callable[[int], Tree],
    scale: Tree | None,
    *,
    rank: int,
    room: Room,
    dimension: int,
    each: Each,
) -> Tree:
    """The same for each of H's diagonal blocks, which are met in one product, in the space of the parameters.

    Works on Ĥ = diag(s) H diag(s). The block of vectors starts in H's range, as random combinations of its root
    columns. From Ritz vectors Z the factor is H Z (Zᵀ H Z)^{-1/2} (Nyström).

    Args:
        product: a stack V to H V for all diagonal blocks.
        seed: a number n to a stack of n vectors in H's range.
        scale: s, a positive vector, or None for ones.
        rank: the number of vectors kept.
        room: the number and width of the blocks of vectors.
        dimension: the size of the largest diagonal block.
        each: lifts a function of one diagonal block's stacks to all of them.
    """
    complete = dimension <= room.vectors
    width, count = (dimension, 1) if complete else room
    scale = scale if complete else jax.lax.stop_gradient(scale)

    def scaled(stack: Tree) -> Tree:
        return stack if scale is None else each(_times)(stack, scale)

    def image(stack: Tree) -> tuple[Tree, Tree]:
        came = scaled(product(scaled(stack)))
        return came, came

    basis, images = _iterate(image, jax.lax.stop_gradient(scaled(seed(width))), count, each)
    factor = each(lambda b, y: _nystrom(b, y, rank))(basis, images)
    return factor if scale is None else each(_over)(factor, scale)


def _iterate(
    product: Callable[[Tree], tuple[Tree, Any]], first: Tree, count: int, each: Each = lambda function: function
) -> tuple[Tree, Any]:
    """An orthonormal basis of a Krylov space in ``count`` blocks, and what the product returned for each, joined.

    Each block is the image of the last, orthogonalised against all before it (Musco and Musco 2015, "Randomized block
    Krylov methods"); no gradient flows through the basis. With ``each``, the stacks are many diagonal blocks' at once.
    """

    def empty(stack: Tree) -> Tree:
        return jax.tree.map(lambda s: jnp.zeros((count * len(s), *s.shape[1:]), s.dtype), stack)

    def insert(room: Tree, stack: Tree, number: Array) -> Tree:
        return jax.tree.map(
            lambda r, s: jax.lax.dynamic_update_slice_in_dim(r, s, number * len(s), axis=0), room, stack
        )

    def grow(carry: tuple[Tree, Tree, Tree], number: Array) -> tuple[tuple[Tree, Tree, Tree], None]:
        basis, kept, newest = carry

        def placed(room: Tree, stack: Tree) -> Tree:
            return each(lambda r, s: insert(r, s, number))(room, stack)

        newest = jax.lax.stop_gradient(each(reorthogonalised)(newest, basis))
        image, more = product(newest)
        return (placed(basis, newest), placed(kept, more), jax.lax.stop_gradient(image)), None

    shapes = jax.eval_shape(product, first)[1]
    kept = each(empty)(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))
    (basis, kept, _), _ = jax.lax.scan(grow, (each(empty)(first), kept, first), jnp.arange(count))
    return basis, kept


def _times(stack: Tree, vector: Tree) -> Tree:
    return jax.tree.map(jnp.multiply, stack, vector)


def _over(stack: Tree, vector: Tree) -> Tree:
    return jax.tree.map(jnp.divide, stack, vector)


def reorthogonalised(newest: Tree, basis: Tree) -> Tree:
    """An orthonormal stack of what ``newest`` adds to the span of an orthonormal basis, zero where that is nothing."""

    def once(_: Any, stack: Tree) -> Tree:
        # The long stack first: the second operand is the one that a CPU transposes.
        outside = jax.tree.map(jnp.subtract, stack, tree.combine(tree.gram(basis, stack).T, basis))
        return tree.combine(_orthonormal(tree.gram(outside, outside)), outside)

    # Once is not enough: the first projection leaves rounding of the size of what it removed.
    return jax.lax.fori_loop(0, 2, once, newest)


def _orthonormal(gram: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Combinations that make vectors with this Gram matrix orthonormal (SVQB, Stathopoulos and Wu 2002).

    A Cholesky factor would do, were there not vectors that depend on others, as the gradients of a unit that few
    examples reach: those become zero.
    """
    square = jnp.diagonal(gram)
    some = square > jnp.finfo(gram.dtype).tiny / jnp.finfo(gram.dtype).eps  # below, products have lost their digits
    inverse_norm = jnp.where(some, jax.lax.rsqrt(jnp.where(some, square, 1)), 0)
    values, vectors = jnp.linalg.eigh(gram * jnp.outer(inverse_norm, inverse_norm))
    large = values > small_matrices.rounding(values)
    inverse_roots = jnp.where(large, jax.lax.rsqrt(jnp.where(large, values, 1)), 0)
    return (vectors * inverse_roots).T * inverse_norm


def _nystrom(basis: Tree, image: Tree, rank: int) -> Tree:
    """Y Z (Zᵀ B Y Z)^{-1/2} for the leading eigenvectors Z of the projection B Y; zero for those that are rounding."""
    projected = tree.gram(basis, image)
    values, vectors = small_matrices.eigendecompose((projected + projected.T) / 2)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    large = values > small_matrices.rounding(values)
    inverse_roots = jnp.where(large, jax.lax.rsqrt(jnp.where(large, values, 1)), 0)
    return tree.pad(tree.combine(inverse_roots[:, None] * vectors.T, image), rank)
