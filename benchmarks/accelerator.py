"""One device, whatever it is: streams, many seeds, ten million parameters, a residual network and LatentTrack.

On a CPU the same at small sizes. Written to benchmarks/results/accelerator-DEVICE.json; eight minutes on one GPU.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console

import latenttrack as lt
import lowrank_filter as lf
from benchmarks import large, networks, streaming
from benchmarks.measure import Timing, device, interleaved, report
from experiments.continual import networks as known

LIKELIHOOD = lf.Categorical()


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured."""

    streams: tuple[tuple[int, ...], ...]
    steps: int
    seeds: tuple[int, ...]
    parameters: int
    side: int
    channels: int
    examples: int
    latent_steps: int
    latent_seeds: int
    repeats: int


FULL = Sizes(
    ((64, 50, 50, 10), (784, 100, 100, 10), (2048, 2048, 2048, 10)),
    *(200, (1, 8, 32, 128), 10_000_000, 32, 64, 128, 10_000, 32, 5),
)
SMALL = Sizes(((64, 50, 50, 10),), 20, (1, 4), 100_000, 14, 4, 8, 200, 2, 2)

Case = tuple[str, Callable[[], Any], float]
"""A name, a call, and how many pieces of work a call does."""


def streams(sizes: Sizes) -> Iterator[Case]:
    """Steps of a stream, one example each."""
    for shape in sizes.streams:
        x, y = streaming.data(shape[0], sizes.steps)
        run = jax.jit(streaming.ours(networks.apply, "relative", rank=20, **streaming.MODEL))
        start = networks.initial(shape, jax.random.key(0))
        name = f"stream, {'-'.join(map(str, shape))}, a step"
        yield name, functools.partial(run, start, x, y), sizes.steps


def seeds(sizes: Sizes) -> Iterator[Case]:
    """The same for many seeds by vmap."""
    shape = sizes.streams[0]
    x, y = streaming.data(shape[0], sizes.steps)
    run = jax.jit(jax.vmap(streaming.ours(networks.apply, "relative", rank=20, **streaming.MODEL), (0, None, None)))
    for count in sizes.seeds:
        keys = jax.random.split(jax.random.key(0), count)
        starts = jax.vmap(functools.partial(networks.initial, shape))(keys)
        yield f"{count} seeds, a step of one", functools.partial(run, starts, x, y), count * sizes.steps


def many_parameters(sizes: Sizes) -> Iterator[Case]:
    """Kernels against a copy of the same bytes, and a truncation."""
    belief = jax.jit(functools.partial(large.state, sizes.parameters))()
    name = f"D = {sizes.parameters:,}, rank {large.RANK}"

    def smooth(belief: lf.Belief) -> lf.Belief:
        beliefs = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), belief)
        return lf.smooth(beliefs, beliefs.precision, large.NOISE)

    def linear(params: Any, x: Any) -> Any:
        return x @ params.reshape(x.shape[1], 10)

    def laplace(belief: lf.Belief, x: Any, y: Any) -> lf.Belief:
        return lf.laplace_update(belief, belief.mean, linear, LIKELIHOOD, x, y)[0]

    x = jax.random.normal(jax.random.key(1), (sizes.examples, sizes.parameters // 10))
    y = jnp.arange(sizes.examples) % 10
    calls = {"copy": large.copy, "predict": large.predict, "smoothing gain": large.gain, "smooth, two steps": smooth}
    for kernel, call in calls.items():
        yield f"{kernel}, {name}", functools.partial(jax.jit(call), belief), 1
    yield f"Laplace update, {name}", functools.partial(jax.jit(laplace), belief, x, y), 1
    halve = jax.jit(lambda precision: lf.truncate(precision, large.RANK // 2))
    yield f"truncation to {large.RANK // 2}, {name}", functools.partial(halve, belief.precision), 1


def residual_network(sizes: Sizes) -> Iterator[Case]:
    """A gradient step of training with the penalty, and the update after it."""
    network = known.resnet(sizes.side, 10, channels=sizes.channels)
    params = network.init(jax.random.key(0))
    belief = lf.init(params, rank=20)
    x = jax.random.normal(jax.random.key(1), (sizes.examples, sizes.side * sizes.side))
    y = jnp.arange(sizes.examples) % 10
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    optimizer = optax.adam(1e-3)
    fit = functools.partial(lf.fit, belief, network.apply, LIKELIHOOD, x, y, optimizer=optimizer, steps=10)
    yield f"residual network, D = {count:,}: a training step with penalty", jax.jit(fit), 10
    update = jax.jit(lambda p: lf.laplace_update(belief, p, network.apply, LIKELIHOOD, x, y))
    yield f"residual network: Laplace update, {sizes.examples} examples", functools.partial(update, params), 1


def latent(sizes: Sizes) -> Iterator[Case]:
    """LatentTrack: training steps and streamed steps of several seeds."""
    model = lt.build(lt.Config(), 10, 1)
    xs, ys = (jax.random.normal(jax.random.key(n), (sizes.latent_steps, n)) for n in (10, 1))
    keys = jax.random.split(jax.random.key(0), sizes.latent_seeds)
    params = jax.jit(jax.vmap(model.init))(keys)
    rollout = jax.jit(jax.vmap(lambda p, key: model.rollout(p, key, xs, ys, samples=32)[1]))
    work = sizes.latent_seeds * sizes.latent_steps
    yield f"LatentTrack, {sizes.latent_seeds} seeds: a streamed step of one", lambda: rollout(params, keys), work
    options: dict[str, Any] = {"updates": 4, "evaluate_every": 4, "window": 64, "batch": 2, "seeds": "vmap"}
    fit = functools.partial(lt.fit, model, keys, xs, ys, **options)
    yield (
        f"LatentTrack, {sizes.latent_seeds} seeds: an update of one",
        lambda: fit().history.loss,
        4 * sizes.latent_seeds,
    )


def main(sizes: Sizes | None = None) -> None:
    """Microseconds for a piece of work, compile seconds, and bytes a second of a copy."""
    sizes = sizes or (SMALL if jax.default_backend() == "cpu" else FULL)
    console, rows = Console(), []
    for group in (streams, seeds, many_parameters, residual_network, latent):
        for name, call, work in group(sizes):
            timing: Timing = interleaved({name: call}, sizes.repeats)[name]
            rows.append((name, 1e6 * timing.median / work, work / timing.median, timing.compile))
            console.print(f"{name}: {rows[-1][1]:.3g} µs, compiled in {timing.compile:.1f} s")
    one, *others = [row for row in rows if "seeds, a step" in row[0]]
    size = 4 * sizes.parameters * (large.RANK + 2)
    copy = next(row for row in rows if row[0].startswith("copy"))
    facts = {
        "throughput of seeds over one": {row[0]: row[2] / one[2] for row in others},
        "copy, bytes a second": 2 * size * copy[2],
        "sizes": dataclasses.asdict(sizes),
    }
    name = f"accelerator-{re.sub(r'[^a-z0-9]+', '-', device().lower()).strip('-')}"
    columns = ("", "µs a piece", "pieces a second", "compile s")
    report(name, "one device", columns, rows, facts, command="accelerator")
