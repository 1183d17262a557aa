"""Writing a precision.

Kernels know a precision by its operations alone, listed in `lf.Precision`. A structure of your own is a pytree with
those that you use: here, what streams and `lf.smooth` ask for. This is a diagonal, to compare with that of
`lf.init(rank=0)`. What does not fit is dropped; the mean of an update is exact in any family, by `correction`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import lowrank_filter as lf
from lowrank_filter.algebra import tree
from lowrank_filter.algebra.correction import correction, projected
from lowrank_filter.algebra.precision import Misfit

each = jax.tree.map


class Diagonal(NamedTuple):
    d: Any  # shaped like the parameters
    rank = 0

    check = lambda self, vector=None, *, positive=True, name="vector": None
    in_structure = lambda self, name, value, like: tree.broadcast(value, like)
    matvec = lambda self, v: each(jnp.multiply, self.d, v)
    quadratic = lambda self, v: tree.inner(v, self.matvec(v))
    solve = lambda self, v: each(jnp.divide, v, self.d)
    whiten = lambda self, v: each(lambda x, d: x / jnp.sqrt(d), v, self.d)
    logdet = lambda self: tree.total(jnp.log, self.d)
    logdet_over = lambda self, before: tree.total(jnp.log, each(jnp.divide, self.d, before.d))
    inverse_diagonal = lambda self: each(jnp.reciprocal, self.d)
    propagate = lambda self, q, a: Diagonal(each(lambda d, q, a: d / (a**2 + q * d), self.d, q, a))
    retrodict = lambda self, q, a: Diagonal(each(lambda d, q, a: a**2 * d / (1 + q * d), self.d, q, a))
    smoothing_gain = lambda self, v, q, a: each(lambda v, d, q, a: a * v / (a**2 + q * d), v, self.d, q, a)
    truncate = lambda self, rank=None, **_: self
    add = lambda self, other, **_: (Diagonal(each(jnp.add, self.d, other.d)), Misfit(jnp.zeros(()), jnp.ones(())))
    approximate = lambda self, curvature, **_: (Diagonal(curvature.diagonal()), Misfit(jnp.zeros(()), jnp.zeros(())))

    def project(self, columns, *, noise=None, transition=None, **_):
        return projected(self if noise is None else self.propagate(noise, transition), columns.stack())

    def condition(self, columns, target, *, noise=None, transition=None, projection=None, **_):
        before = projection.predicted if projection else (self if noise is None else self.propagate(noise, transition))
        site = Diagonal(each(lambda a: jnp.sum(a**2, axis=0), columns.stack()))
        after, misfit = before.add(site)
        return after, site, correction(before, columns.stack(), target), misfit


apply_fn = lambda w, x: jnp.tanh(x @ w)
x, start = jax.random.normal(jax.random.key(0), (50, 3)), jnp.ones((3, 2)) / 3
y = (x[:, 0] > 0).astype(int)
stream = lf.extended_filter(apply_fn, lf.Categorical(), rank=0, process_noise=1e-3)
run = jax.jit(lambda belief: lf.filter_stream(stream, belief, x, y, history="all"))
means = []
for last, steps in map(run, (lf.Belief(start, Diagonal(jnp.ones((3, 2)))), stream.init(start))):
    means.append((last.mean, lf.smooth(steps.beliefs, steps.info.site, 1e-3).mean))
assert jax.tree.all(each(lambda a, b: jnp.allclose(a, b, atol=1e-5), *means))
