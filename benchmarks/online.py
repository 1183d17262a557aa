"""One image at a time, a LeNet on MNIST: this library's filter with its defaults against the authors' code of others.

LO-FI, LRKF, HiLoFi and LoLoFi as rebayes-mini has them, where it can be imported, and as the experiments have them
written anew; ranks are equal, settings those that `experiments online-mnist --preset small` chose. Every image is
predicted, then learned from; with a draw, as in Thompson sampling, the outputs are drawn first.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks import peers
from benchmarks.measure import interleaved, report
from experiments.continual.networks import lenet
from experiments.continual.online.comparison import METHODS
from experiments.continual.online.interface import Online, labels
from experiments.data.mnist import mnist

RANK, FIRST, TIMED = 20, 100, 20
SETTINGS = {
    "filter_default": {},
    "filter_dense_head": {"variance": 1.0, "process_noise": 1e-6},
    "lofi_stream": {"precision": 30.0, "process_noise": 0.0, "epsilon": 0.1},  # of 1e-4, the authors' becomes NaN
    "lrkf": {"process_noise": 0.1, "epsilon": 0.1},
    "hilofi": {"process_noise": 0.01, "epsilon": 1e-4},
    "lolofi": {"process_noise": 0.1, "epsilon": 0.1},
}
COLUMNS = ("filter", "ms a step", "with a draw", "time / the first's", "with a draw", "accuracy, %", "compile s")


def passed(online: Online, state: Any, x: Array, y: Array, keys: Array, *, draws: bool) -> tuple[Array, Array]:
    """Whether each image was right before its update, and a number that the draws and the last state go into."""

    def step(state: Any, item: tuple[Array, Array, Array]) -> tuple[Any, tuple[Array, Array]]:
        image, label, key = item[0][None], item[1][None], item[2]
        drawn = online.draw(state, key, image) if draws and online.draw is not None else jnp.zeros(())
        right = jnp.argmax(online.outputs(state, image)[0]) == label[0]
        return online.update(state, image, label)[0], (right, jnp.sum(drawn))

    state, (right, drawn) = jax.lax.scan(step, state, (x, y, keys))
    return right, jnp.sum(drawn) + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(state))


def main(images: int = 1000, repeats: int = 7) -> None:
    """Milliseconds a step, and accuracy over the last half of so many images."""
    network = lenet(10)
    problem, data = labels(network), mnist()
    order = np.random.default_rng(0).permutation(len(data.train_y))[:images]
    x = jnp.asarray(data.train_x[order].reshape(images, -1))
    y, keys = jnp.asarray(data.train_y[order]), jax.random.split(jax.random.key(0), images)
    methods = {name: METHODS[name].build(problem, RANK, settings) for name, settings in SETTINGS.items()}
    methods |= peers.rebayes_mini(network.apply, RANK, SETTINGS)
    params = network.init(jax.random.key(0))
    states = {name: method.init(params, x[:FIRST]) for name, method in methods.items()}

    @functools.cache
    def compiled(name: str, draws: bool) -> Any:
        return jax.jit(functools.partial(passed, methods[name], draws=draws))

    def call(name: str, draws: bool) -> Any:
        return jax.block_until_ready(compiled(name, draws)(states[name], x[:TIMED], y[:TIMED], keys[:TIMED]))

    plain = interleaved({name: functools.partial(call, name, False) for name in methods}, repeats)
    able = {name for name, method in methods.items() if method.draw is not None}
    drawing = interleaved({name: functools.partial(call, name, True) for name in methods if name in able}, repeats)
    rows = []
    for name in methods:
        right, _ = compiled(name, False)(states[name], x, y, keys)
        seconds = [timings[name].median if name in timings else None for timings in (plain, drawing)]
        first = [timings["filter_default"].median for timings in (plain, drawing)]
        rows.append(
            (
                *(name, *("–" if own is None else 1e3 * own / TIMED for own in seconds)),
                *("–" if own is None else own / one for own, one in zip(seconds, first, strict=True)),
                *(100 * float(jnp.mean(right[images // 2 :])), plain[name].compile),
            )
        )
    facts = {"rank": RANK, "images": images, "parameters": 61_706, "settings": SETTINGS, "repeats": repeats}
    report("online", f"LeNet, rank {RANK}, single images of MNIST", COLUMNS, rows, facts)
