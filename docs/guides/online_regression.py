"""Online regression with noise by evidence.

A stream whose function drifts has two noises: that of the observations, R, and that of the weights, q. Neither needs
a validation set: a filter's log evidence is log p(y | all earlier data), summed over the stream, and it is
differentiable in both. Here Adam climbs it in the logarithms of R and q, through the whole scan.
"""

import jax
import jax.numpy as jnp
import optax

import lowrank_filter as lf

STEPS, NOISE = 200, 0.3
time = jnp.arange(STEPS)
x = jax.random.uniform(jax.random.key(0), (STEPS, 1), minval=-2, maxval=2)
clean = jnp.sin(2 * x[:, 0]) * jnp.cos(time / 60) + 0.5 * x[:, 0] * jnp.sin(time / 60)
y = clean + NOISE * jax.random.normal(jax.random.key(1), (STEPS,))
centres = jnp.linspace(-2, 2, 9)


def apply_fn(weights, x):  # radial features: linear in the weights, so that the filter is exact
    return jnp.exp(-((x - centres) ** 2)) @ weights[:, None]


def absorb(logs):
    stream = lf.extended_filter(
        apply_fn, lf.Gaussian(jnp.exp(logs["noise"])), rank=9, process_noise=jnp.exp(logs["drift"])
    )
    return lf.filter_stream(stream, stream.init(jnp.zeros(9)), x, y)


def objective(logs):
    return -absorb(logs)[1].info.log_evidence.sum()


optimizer = optax.adam(0.2)


@jax.jit
def climb(logs):
    def step(carry, _):
        logs, state = carry
        value, gradient = jax.value_and_grad(objective)(logs)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(logs, updates), state), value

    return jax.lax.scan(step, (logs, optimizer.init(logs)), length=40)


(logs, _), trace = climb({"noise": jnp.log(3.0), "drift": jnp.log(1e-6)})
found = jnp.exp(logs["noise"] / 2)
print(f"log evidence {-trace[0]:.0f} -> {-trace[-1]:.0f}; noise {found:.2f} (made with {NOISE})")
print(f"process noise {jnp.exp(logs['drift']):.1e} a step")
assert trace[-1] < trace[0] and abs(found / NOISE - 1) < 0.3 and jnp.exp(logs["drift"]) > 1e-5
