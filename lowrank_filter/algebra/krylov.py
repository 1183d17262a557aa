"""The leading eigenvectors of a curvature known only by its products."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lowrank_filter.algebra import eigen, tree
from lowrank_filter.algebra.columns import Stack
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.algebra.truncation import principal

Each = Callable[[Callable], Callable]


def block_width(rank: int) -> int:
    """The number of vectors in a block: a few more than are kept, which speeds the last ones up."""
    return rank + max(4, rank // 4)


def leading(
    product: Callable[[Tree], Tree],
    seed: Callable[[int], Tree],
    scale: Tree | None,
    *,
    rank: int,
    iterations: int,
    dimension: int,
    each: Each = lambda function: function,
) -> Tree:
    """W with W Wᵀ ≈ the best rank-``rank`` part of H, by block Krylov iteration and a Rayleigh-Ritz step.

    Works on Ĥ = diag(s) H diag(s), so that s = d^{-1/2} measures relative to a diagonal d. The block starts in H's
    range, as random combinations of its root columns (fixed, so the result is deterministic), and each iteration adds
    the block Ĥ·(last block), orthogonalised against all before it (Musco and Musco 2015, "Randomized block Krylov
    methods"). From Ritz vectors Z the factor is H Z (Zᵀ H Z)^{-1/2} (Nyström): H − W Wᵀ stays positive semi-definite.

    Gradients flow through the products with H and the Ritz values, not through the choice of the subspace.

    Args:
        product: a stack V to H V. Where H is block-diagonal, one product serves all of its blocks.
        seed: a number n to a stack of n vectors in H's range.
        scale: s, a positive vector, or None for ones.
        rank: the number of vectors kept.
        iterations: the number of blocks of vectors after the first.
        dimension: the size of H, or of its largest diagonal block.
        each: lifts a function of one diagonal block's stacks to all of them, where H is block-diagonal.
    """
    width, count = block_width(rank), iterations + 1
    if dimension <= width * count:
        width, count = dimension, 1  # one block spans everything, and the choice of a subspace is none
    else:
        scale = jax.lax.stop_gradient(scale)

    def scaled(stack: Tree) -> Tree:
        return stack if scale is None else each(_times)(stack, scale)

    def grow(carry: tuple[Tree, Tree, Tree], start: Array) -> tuple[tuple[Tree, Tree, Tree], None]:
        basis, images, newest = carry

        def insert(room: Tree, stack: Tree) -> Tree:
            return jax.tree.map(lambda r, s: jax.lax.dynamic_update_slice_in_dim(r, s, start, axis=0), room, stack)

        newest = jax.lax.stop_gradient(each(_reorthogonalised)(newest, basis))
        image = scaled(product(scaled(newest)))
        return (each(insert)(basis, newest), each(insert)(images, image), jax.lax.stop_gradient(image)), None

    first = jax.lax.stop_gradient(scaled(seed(width)))
    room = each(lambda stack: jax.tree.map(lambda s: jnp.zeros((count * width, *s.shape[1:]), s.dtype), stack))(first)
    (basis, images, _), _ = jax.lax.scan(grow, (room, room, first), jnp.arange(count) * width)
    factor = each(lambda b, y: _nystrom(b, y, rank))(basis, images)
    return factor if scale is None else each(_over)(factor, scale)


def _times(stack: Tree, vector: Tree) -> Tree:
    return jax.tree.map(jnp.multiply, stack, vector)


def _over(stack: Tree, vector: Tree) -> Tree:
    return jax.tree.map(jnp.divide, stack, vector)


def _reorthogonalised(newest: Tree, basis: Tree) -> Tree:
    """An orthonormal stack with what ``newest`` adds to the span of an orthonormal basis."""

    def once(_: int, stack: Tree) -> Tree:
        return _orthonormal(jax.tree.map(jnp.subtract, stack, tree.combine(tree.gram(stack, basis), basis)))

    # Once is not enough: the first projection leaves rounding of the size of what it removed.
    return jax.lax.fori_loop(0, 2, once, newest)


def _orthonormal(stack: Tree) -> Tree:
    """Orthonormal vectors with the same span; dependent ones become zero."""
    principal_stack, _, squared = principal(tree.gram(stack, stack), (Stack(stack),), None, tree.length(stack), 3)
    negligible = (len(squared) * jnp.finfo(squared.dtype).eps) ** 2 * squared[0]
    inverse = jnp.where(squared > negligible, jax.lax.rsqrt(jnp.where(squared > negligible, squared, 1)), 0)
    return jax.tree.map(lambda y: jnp.einsum("n,n...->n...", inverse, y), principal_stack)


def _nystrom(basis: Tree, image: Tree, rank: int) -> Tree:
    """Y Z (Zᵀ B Y Z)^{-1/2} for the leading eigenvectors Z of the projection B Y; zero for those that are rounding."""
    projected = tree.gram(basis, image)
    values, vectors = eigen.decompose((projected + projected.T) / 2)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    large = values > eigen.rounding(values)
    inverse_roots = jnp.where(large, jax.lax.rsqrt(jnp.where(large, values, 1)), 0)
    return tree.pad(tree.combine(inverse_roots[:, None] * vectors.T, image), rank)
