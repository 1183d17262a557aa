"""Process noise that nobody chooses: it follows the gradient of the evidence."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

import lowrank_filter as lf
from experiments.continual.learners.interface import Hyper, Kept, Learner, Task, Training, Tree, fitted
from experiments.continual.networks import Network
from experiments.continual.structures import Structure

Layers = Any


class State(NamedTuple):
    """The belief, log q of each layer, and how many tasks there were."""

    belief: lf.Belief
    log_noise: Layers
    tasks: Int[Array, ""]


def by_evidence(structure: Structure, *, rounds: int = 2, steps: int = 10, rate: float = 0.3) -> Learner:
    """The filter with one process noise for each layer, which climbs the log evidence of each task from the second on.

    Empirical Bayes (MacKay 1992) along the sequence: train at the present noise, take gradient steps on log q of
    ``info.log_evidence`` at those parameters, which are a maximum and so need no derivative of their own; again for
    each round; then filter as always. A task inherits the noise of the last one. Meant for curvature scale 1: the
    evidence of any other is not the model's.

    Args:
        rounds: times that a task is trained on before its last training.
        steps: gradient steps a round, by Adam with ``rate``.
    """

    def init(start: Tree, hyper: Hyper) -> State:
        belief = structure.prior(start, hyper["prior"])
        layers = layered(start, lambda _: jnp.log(jnp.asarray(hyper["noise"], float)))
        return State(belief, layers, jnp.zeros((), int))

    def step(network: Network, training: Training, state: State, task: Task, hyper: Hyper) -> tuple[State, Kept]:
        count = training.curvature_examples or len(task.y)

        def absorbed(log_noise: Layers, params: Tree) -> tuple[lf.Belief, lf.Info]:
            return lf.laplace_update(
                lf.predict(state.belief, jax.tree.map(jnp.exp, log_noise)),
                *(params, network.apply, lf.Categorical(), task.x[:count], task.y[:count]),
                curvature_scale=hyper["curvature"] * len(task.y) / count,
                mask=jnp.broadcast_to(task.present, (count,)),
            )

        def trained(log_noise: Layers) -> Tree:
            belief = lf.predict(state.belief, jax.tree.map(jnp.exp, log_noise))
            return fitted(network, training, belief, task, hyper)

        def climbed(log_noise: Layers, _: None) -> tuple[Layers, None]:
            params, adam = trained(log_noise), optax.adam(rate)

            def up(carry: tuple[Layers, Any], _: None) -> tuple[tuple[Layers, Any], None]:
                log_noise, memory = carry
                gradient = jax.grad(lambda value: -absorbed(value, params)[1].log_evidence)(log_noise)
                move, memory = adam.update(gradient, memory)
                # Before the first task there is a prior, and no past that could drift.
                move = jax.tree.map(lambda leaf: jnp.where((state.tasks > 0) & task.present, leaf, 0), move)
                return (jax.tree.map(jnp.add, log_noise, move), memory), None

            (log_noise, _), _ = jax.lax.scan(up, (log_noise, adam.init(log_noise)), length=steps)
            return log_noise, None

        log_noise, _ = jax.lax.scan(climbed, state.log_noise, length=rounds)
        params = trained(log_noise)
        belief, info = absorbed(log_noise, params)
        noise = jax.tree.map(jnp.exp, log_noise)
        return State(belief, log_noise, state.tasks + 1), Kept(params, belief, info.site, noise)

    return Learner(init, step, per_layer=True)


def layered(params: Tree, value: Any) -> Layers:
    """One value for each layer of a flax network: a prefix of its parameters."""
    return {collection: {name: value(layer) for name, layer in layers.items()} for collection, layers in params.items()}
