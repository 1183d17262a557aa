"""Training a perceptron in the eigenbasis of a Kronecker precision, its inputs turned once a task."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import lowrank_filter as lf
from experiments.continual.learners.interface import Hyper, Task, Training, Tree, fit_options
from experiments.continual.learners.osla import Products
from experiments.continual.networks import Network


def turned(network: Network, training: Training, belief: lf.Belief, task: Task, hyper: Hyper) -> Tree:
    """The steps of :func:`fitted` with ``whitened``, at a third of their cost, for multilayer perceptrons alone.

    A layer's matrix is W = M + U(Z/√S)Vᵀ and the penalty ½‖Z‖². With the images' Mx and Vᵀx computed once, a step never
    meets the first layer's V: Wx = Mx + U(Z/√S)(Vᵀx), where the sum W itself would cost U²m + Um² products.

    Args:
        network: dense layers in the order of the parameters, with rectified linear units between them.
    """
    precision: Any = belief.precision
    layout = precision.layout
    if isinstance(precision, Products):
        bases = precision.eigenbases()
    else:
        bases = [(part.units, part.inputs, part.scale) for part in precision.parts]
    means = layout.split(belief.mean)
    roots = [jax.lax.rsqrt(scale) for _, _, scale in bases]

    def with_one(x: Float[Array, "B m-1"]) -> Float[Array, "B m"]:
        return jnp.concatenate([x, jnp.ones((len(x), 1), x.dtype)], axis=1)

    def moved(number: int, z: Float[Array, "U m"]) -> Float[Array, "U m"]:
        units, inputs, _ = bases[number]
        return units @ (z * roots[number]) @ inputs.T

    def apply(z: list[Array], seen: tuple[Array, Array]) -> Float[Array, "B C"]:
        centre, coordinates = seen
        outputs = centre + (coordinates @ (z[0] * roots[0]).T) @ bases[0][0].T
        for number in range(1, len(z)):
            outputs = with_one(jax.nn.relu(outputs)) @ (means[number] + moved(number, z[number])).T
        return outputs

    images = with_one(task.x)
    start = [jnp.zeros_like(mean) for mean in means]
    seen = images @ means[0].T, images @ bases[0][1]
    options: Any = fit_options(training, task, hyper)
    z, _ = lf.fit(lf.init(start, 1.0, rank=0), apply, lf.Categorical(), seen, task.y, **options)
    return layout.join([mean + moved(number, z[number]) for number, mean in enumerate(means)])
