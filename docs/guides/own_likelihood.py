"""Writing a likelihood.

Subclass `lf.Likelihood` and define `nll` for one example: the rest follows by automatic differentiation of the
Hessian. Where that is not positive semi-definite, as for a Student-t far from its centre, give `root` and
`whitened_score` in closed form: any S whose S Sᵀ is a good curvature, and u with S u = ∇ nll. Here S Sᵀ = w/scale², w
= (ν + 1)/(ν + z²), the weight of iterated least squares: an outlier says little. Registered with
`lf.registered`, its numbers are traced.
"""

import dataclasses

import jax
import jax.numpy as jnp

import lowrank_filter as lf


@lf.registered
@dataclasses.dataclass(frozen=True)
class StudentT(lf.Likelihood):
    """y ~ f + scale·t_ν: tails that do not believe an outlier."""

    scale: float
    freedom: float

    def standardised(self, output, target):
        z = (target - output) / self.scale
        return z, (self.freedom + 1) / (self.freedom + z**2)

    def nll(self, output, target):
        return -jnp.sum(jax.scipy.stats.t.logpdf(target, self.freedom, output, self.scale))

    def root(self, output, target):
        _, weight = self.standardised(output, target)
        return jnp.diag(jnp.sqrt(weight)) / self.scale

    def whitened_score(self, output, target):
        z, weight = self.standardised(output, target)
        return -jnp.sqrt(weight) * z

    def targets(self, outputs):
        return (outputs,)


def apply_fn(weights, x):
    return x @ weights[:, None]


truth = jnp.array([1.0, -2.0, 0.5])
x = jax.random.normal(jax.random.key(0), (300, 3))
y = (x @ truth + 0.1 * jax.random.normal(jax.random.key(1), (300,))).at[::10].add(20.0)  # a tenth of them spoilt

errors = {}
for name, likelihood in [("Gaussian", lf.Gaussian(0.01)), ("Student-t", StudentT(0.1, 3.0))]:
    stream = lf.extended_filter(apply_fn, likelihood, rank=3)
    belief, steps = lf.filter_stream(stream, stream.init(jnp.zeros(3)), x, y)
    errors[name] = float(jnp.linalg.norm(belief.mean - truth))
print("distance to the truth:", errors)
assert errors["Student-t"] < 0.1 * errors["Gaussian"]
