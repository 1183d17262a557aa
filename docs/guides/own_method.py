"""Writing a method.

A filter is a NamedTuple of three pure functions: init, predict, update. Any other way to move a belief through time
or to absorb data is another such triple, made from the kernels or beside them, and every driver takes it. Here:
forgetting by a discount γ, which multiplies the precision at each step in place of adding noise to the weights (West
& Harrison), and an update that linearises twice: once at the prediction, once more where that ended (one iterated
extended Kalman step).
"""

import jax
import jax.numpy as jnp

import lowrank_filter as lf


def discounted_filter(apply_fn, likelihood, *, rank, discount, precision=1.0):
    def predict(belief):
        p = belief.precision  # P = diag(d) + W Wᵀ, so that γP is diag(γd) + (√γ W)(√γ W)ᵀ
        diag = jax.tree.map(lambda d: discount * d, p.diag)
        factor = jax.tree.map(lambda w: jnp.sqrt(discount) * w, p.factor)
        return belief._replace(precision=lf.DiagLowRank(diag, factor))

    def update(belief, x, y, mask=None):
        there, _ = lf.update(belief, apply_fn, likelihood, x, y, mask=mask)

        def relinearised(params, x):  # the network's tangent at the first answer
            shift = jax.tree.map(jnp.subtract, params, there.mean)
            value, slope = jax.jvp(lambda p: apply_fn(p, x), (there.mean,), (shift,))
            return value + slope

        return lf.update(belief, relinearised, likelihood, x, y, mask=mask)

    return lf.Filter(lambda params: lf.init(params, precision, rank=rank), predict, update)


def apply_fn(params, x):
    return jnp.tanh(x @ params["w1"]) @ params["w2"]


first, second = jax.random.split(jax.random.key(0))
params = {"w1": jax.random.normal(first, (2, 16)), "w2": jax.random.normal(second, (16, 1)) / 4}
x = jax.random.normal(jax.random.key(1), (400, 2))
angle = jnp.arange(400) / 100  # a function that turns
y = jnp.sin(x[:, 0] * jnp.cos(angle) + x[:, 1] * jnp.sin(angle))[:, None]

evidence = {}
for discount in (1.0, 0.98):
    method = discounted_filter(apply_fn, lf.Gaussian(0.01), rank=8, discount=discount)
    run = jax.jit(lambda belief, method=method: lf.filter_stream(method, belief, x, y, chunk_size=4))
    belief, steps = run(method.init(params))
    evidence[discount] = float(steps.info.log_evidence.sum())
print(evidence)
assert evidence[0.98] > evidence[1.0]
