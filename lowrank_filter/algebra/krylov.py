"""The leading eigenvectors of a curvature known only by its products."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.precision import Curvature
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.algebra.truncation import principal


def block_width(rank: int) -> int:
    """The number of vectors in a block: a few more than are kept, which speeds the last ones up."""
    return rank + max(4, rank // 4)


def leading(curvature: Curvature, scale: Tree | None, rank: int, iterations: int) -> Tree:
    """W with W Wᵀ ≈ the best rank-``rank`` part of H, by block Krylov iteration and a Rayleigh-Ritz step.

    Works on Ĥ = diag(s) H diag(s), so that s = d^{-1/2} measures relative to a diagonal d. The block starts in H's
    range, as random combinations of its root columns (fixed, so the result is deterministic), and each iteration adds
    the block Ĥ·(last block), orthogonalised against all before it (Musco and Musco 2015, "Randomized block Krylov
    methods"). From Ritz vectors Z the factor is H Z (Zᵀ H Z)^{-1/2} (Nyström): H − W Wᵀ stays positive semi-definite.

    Gradients flow through the products with H and the Ritz values, not through the choice of the subspace.

    Args:
        scale: s, a positive vector, or None for ones.
        rank: the number of vectors kept.
        iterations: the number of blocks after the first.
    """
    if rank == 0:
        return tree.zeros(curvature.like, 0)
    width, blocks, dimension = block_width(rank), iterations + 1, tree.dimension(curvature.like)
    if dimension <= width * blocks:
        width, blocks = dimension, 1  # one block spans everything, and the choice of a subspace is none
    else:
        scale = jax.lax.stop_gradient(scale)

    def scaled(stack: Tree) -> Tree:
        return stack if scale is None else jax.tree.map(jnp.multiply, stack, scale)

    def product(stack: Tree) -> Tree:
        return scaled(curvature.product(scaled(stack)))

    def grow(carry: tuple[Tree, Tree], block: Array) -> tuple[tuple[Tree, Tree], Tree]:
        basis, newest = carry

        def reorthogonalise(_: int, newest: Tree) -> Tree:
            return _orthonormal(jax.tree.map(jnp.subtract, newest, tree.combine(tree.gram(newest, basis), basis)))

        # Once is not enough: the first projection leaves rounding of the size of what it removed.
        newest = jax.lax.stop_gradient(jax.lax.fori_loop(0, 2, reorthogonalise, newest))
        basis = jax.tree.map(
            lambda b, n: jax.lax.dynamic_update_slice_in_dim(b, n, block * width, axis=0), basis, newest
        )
        image = product(newest)
        return (basis, jax.lax.stop_gradient(image)), image

    start = (tree.zeros(curvature.like, blocks * width), jax.lax.stop_gradient(scaled(curvature.seed(width))))
    (basis, _), images = jax.lax.scan(grow, start, jnp.arange(blocks))
    image = jax.tree.map(lambda y: y.reshape(blocks * width, *y.shape[2:]), images)
    projected = tree.gram(basis, image)
    inverse_roots, vectors = _top((projected + projected.T) / 2, rank)
    factor = tree.pad(tree.combine(inverse_roots[:, None] * vectors.T, image), rank)
    return factor if scale is None else jax.tree.map(jnp.divide, factor, scale)


def _orthonormal(stack: Tree) -> Tree:
    """Orthonormal vectors with the same span; dependent ones become zero."""
    principal_stack, _, squared = principal((stack,), None, tree.length(stack), 3)
    negligible = (len(squared) * jnp.finfo(squared.dtype).eps) ** 2 * squared[0]
    inverse = jnp.where(squared > negligible, jax.lax.rsqrt(jnp.where(squared > negligible, squared, 1)), 0)
    return jax.tree.map(lambda y: jnp.einsum("n,n...->n...", inverse, y), principal_stack)


def _top(matrix: Float[Array, "n n"], count: int) -> tuple[Float[Array, " k"], Float[Array, "n k"]]:
    """λ^{-1/2} of the largest eigenvalues (zero for those that are only rounding), and their eigenvectors.

    The decomposition itself carries no gradient, which a degenerate spectrum would make NaN. First-order perturbation
    theory adds it: a term that is zero in value.
    """
    fixed = jax.lax.stop_gradient(matrix)
    values, vectors = jnp.linalg.eigh(fixed)
    change = vectors.T @ (matrix - fixed) @ vectors
    gap = values[None, :] - values[:, None]
    rounding = len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    separate = jnp.abs(gap) > rounding
    vectors = vectors + vectors @ jnp.where(separate, change / jnp.where(separate, gap, 1), 0)
    values = (values + jnp.diagonal(change))[::-1][:count]
    large = values > rounding
    return jnp.where(large, jax.lax.rsqrt(jnp.where(large, values, 1)), 0), vectors[:, ::-1][:, :count]
