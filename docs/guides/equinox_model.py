"""A network of equinox.

An equinox module is a pytree of arrays and other things. `eqx.partition` takes out the arrays that are trained: those
are the parameters that the belief is about; the rest is closed over. Equinox modules take one example, so `apply_fn`
maps. Layers are found by their shapes and names, which blocks and Kronecker precisions need.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import lowrank_filter as lf

model = eqx.nn.MLP(1, 1, width_size=16, depth=2, activation=jnp.tanh, key=jax.random.key(0))
params, static = eqx.partition(model, eqx.is_inexact_array)


def apply_fn(params, x):
    return jax.vmap(eqx.combine(params, static))(x)


x = jax.random.uniform(jax.random.key(1), (100, 1), minval=-1)
y = jnp.sin(4 * x) + 0.1 * jax.random.normal(jax.random.key(2), x.shape)
print([layer.kernel for layer in lf.find_layers(params)])

likelihood = lf.Gaussian(0.01)


@jax.jit
def learn(params):
    belief = lf.init(params, 0.1, structure=lf.KroneckerFactored())
    fitted, losses = lf.fit(belief, apply_fn, likelihood, x, y, optimizer=optax.adam(1e-2), steps=300)
    return *lf.laplace_update(belief, fitted, apply_fn, likelihood, x, y), losses


belief, info, losses = learn(params)
predicted = lf.predictive(belief, apply_fn, jnp.array([[0.0], [3.0]]), likelihood=likelihood)
near, far = predicted.covariance[:, 0, 0] ** 0.5
print(f"log evidence {info.log_evidence:.0f}; standard deviation {near:.3f} among the data, {far:.2f} far away")
assert losses[-1] < losses[0] and near < 0.1 < 3 * near < far
drawn = predicted.sample_targets(jax.random.key(3), 1000)  # of y, with its noise
held = jnp.mean((drawn > predicted.quantile(0.1)) & (drawn < predicted.quantile(0.9)), axis=0)
assert jnp.allclose(held, 0.8, atol=0.06)

trained = eqx.combine(belief.mean, static)  # a module again
