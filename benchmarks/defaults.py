"""What a user gets who chooses nothing: one pass over the digits, one at a time, with every default.

Networks × activations × structures, seeds of the initial weights side by side by vmap. 1,297 of scikit-learn's digits
are learned from, 500 are kept for the test. Nothing is tuned and no step is left out: a run that is not finite, or
whose evidence of labels is positive, is counted as such.
"""

import time
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array
from rich.console import Console

import lowrank_filter as lf
from benchmarks.measure import record, recorded, report
from experiments.data import digits

TEST, FIRST, RANK = 500, 100, 10
ASKED = {"accuracy": 0.93, "nll": 0.30, "evidence": 0.0}
ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu}
COLUMNS = (
    *("network", "structure", "held", "accuracy", "min … max", "NLL", "min … max", "evidence", "max"),
    *("before updates", "diverged", "finite"),
)
HEAD = "head"
STRUCTURES: dict[str, Any] = {
    "network": lf.LowRank(RANK),
    "layer": lf.LowRank(RANK, blocks="layer"),
    "unit": lf.LowRank(RANK, blocks="unit"),
    "diagonal": lf.Diagonal(),
    "kronecker": lf.KroneckerFactored(),
    "low-rank body, dense head": {"body": lf.LowRank(RANK), HEAD: lf.Dense()},
}


class Model(NamedTuple):
    """Parameters of a key, with a body and a head, and the network."""

    initial: Callable[[Array], Any]
    apply: Callable[[Any, Array], Array]


def _dense(key: Array, inputs: int, outputs: int) -> dict[str, Array]:
    return {"kernel": jax.random.normal(key, (inputs, outputs)) * np.sqrt(2 / inputs), "bias": jnp.zeros(outputs)}


def mlp(activation: Callable, *sizes: int) -> Model:
    """Dense layers."""

    def initial(key: Array) -> Any:
        keys = jax.random.split(key, len(sizes) - 1)
        layers = [_dense(*each) for each in zip(keys, sizes[:-1], sizes[1:], strict=True)]
        return {"body": layers[:-1], HEAD: layers[-1]}

    def apply(params: Any, x: Array) -> Array:
        for layer in params["body"]:
            x = activation(x @ layer["kernel"] + layer["bias"])
        return x @ params[HEAD]["kernel"] + params[HEAD]["bias"]

    return Model(initial, apply)


def cnn(activation: Callable) -> Model:
    """Two convolutions of 3×3 to 8 and 16 channels, the second with a stride of two, and a dense layer."""

    def kernel(key: Array, inputs: int, outputs: int) -> dict[str, Array]:
        scale = np.sqrt(2 / (9 * inputs))
        return {"kernel": jax.random.normal(key, (3, 3, inputs, outputs)) * scale, "bias": jnp.zeros(outputs)}

    def initial(key: Array) -> Any:
        first, second, last = jax.random.split(key, 3)
        return {"body": [kernel(first, 1, 8), kernel(second, 8, 16)], HEAD: _dense(last, 16 * 16, 10)}

    def apply(params: Any, x: Array) -> Array:
        x = x.reshape(-1, 8, 8, 1)
        for layer, stride in zip(params["body"], (1, 2), strict=True):
            form = {
                "window_strides": (stride, stride),
                "padding": "SAME",
                "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
            }
            x = activation(jax.lax.conv_general_dilated(x, layer["kernel"], **form) + layer["bias"])
        return x.reshape(len(x), -1) @ params[HEAD]["kernel"] + params[HEAD]["bias"]

    return Model(initial, apply)


MODELS: dict[str, Callable[[Callable], Model]] = {
    "64-50-50-10": lambda activation: mlp(activation, 64, 50, 50, 10),
    "64-200-10": lambda activation: mlp(activation, 64, 200, 10),
    "cnn": cnn,
}


class Scores(NamedTuple):
    """Of one seed. ``before`` is the accuracy on each example before it was learned from, over the whole stream."""

    accuracy: Array
    nll: Array
    evidence: Array
    before: Array
    diverged: Array
    finite: Array


def run(model: Model, structure: Any, keys: Array, data: tuple[Array, ...]) -> Scores:
    """One pass for each key."""
    x, y, test_x, test_y = data
    likelihood = lf.Categorical()
    built = lf.extended_filter(model.apply, likelihood, structure=structure)

    def one(key: Array) -> Scores:
        belief = built.init(model.initial(key), x[:FIRST])

        def step(belief: lf.Belief, example: tuple[Array, Array]) -> tuple[lf.Belief, tuple]:
            image, label = example[0][None], example[1][None]
            right = jnp.argmax(model.apply(belief.mean, image)[0]) == label[0]
            belief, info = built.step(belief, image, label)
            return belief, (right, info.log_evidence, info.diverged)

        belief, (right, evidence, diverged) = jax.lax.scan(step, belief, (x, y))
        outputs = model.apply(belief.mean, test_x)
        return Scores(
            jnp.mean(jnp.argmax(outputs, axis=1) == test_y),
            jnp.mean(jax.vmap(likelihood.nll)(outputs, test_y)),
            jnp.sum(evidence),
            jnp.mean(right),
            jnp.sum(diverged),
            jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((belief, evidence))])),
        )

    return jax.jit(jax.vmap(one))(keys)


def split(key: Array) -> tuple[Array, ...]:
    """The digits in a random order: what is learned from, and the last 500."""
    images, labels = digits.load()
    order = np.asarray(jax.random.permutation(key, len(labels)))
    x, y = jnp.asarray(images.reshape(len(labels), -1)[order]), jnp.asarray(labels[order])
    return x[:-TEST], y[:-TEST], x[-TEST:], y[-TEST:]


def held(scores: Scores) -> bool:
    """Whether what is asked holds: of the means over seeds, and of every seed that it is finite and no evidence > 0."""
    means = jnp.mean(scores.accuracy) >= ASKED["accuracy"], jnp.mean(scores.nll) <= ASKED["nll"]
    return bool(jnp.all(jnp.stack([*means, jnp.all(scores.finite), jnp.all(scores.evidence <= ASKED["evidence"])])))


def main(
    *,
    seeds: int = 5,
    models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = tuple(MODELS),
    activations: tuple[str, ...] = tuple(ACTIVATIONS),
    structures: tuple[str, ...] = tuple(STRUCTURES),
) -> None:
    """One row for each network, activation and structure, each recorded as it is measured.

    A run that was cut off goes on after its last row; one that ended begins anew.
    """
    keys, data = jax.random.split(jax.random.key(0), seeds), split(jax.random.key(1))
    facts = {"seeds": seeds, "rank": RANK, "first batch": FIRST}
    wanted = [(f"{m} {a}", s) for m in models for a in activations for s in structures]
    rows = recorded("defaults", COLUMNS, facts)
    rows = [] if {(row[0], row[1]) for row in rows} >= set(wanted) else rows
    for name, structure in wanted:
        if any((name, structure) == (row[0], row[1]) for row in rows):
            continue
        began = time.perf_counter()
        model, activation = name.rsplit(" ", 1)
        try:
            found = run(MODELS[model](ACTIVATIONS[activation]), STRUCTURES[structure], keys, data)
        except ValueError as error:
            if not str(error).startswith("structure:"):
                raise
            # A head of more parameters than are exact by default.
            row = [name, structure, "refused", *["–"] * (len(COLUMNS) - 3)]
        else:
            row = [name, structure, "yes" if held(found) else "no", *_described(jax.tree.map(np.asarray, found))]
        rows.append(row)
        record("defaults", COLUMNS, rows, facts)
        Console().print(*row, f"{time.perf_counter() - began:.0f} s")
        jax.clear_caches()
    title = f"Defaults, one pass over {len(data[0])} digits, {seeds} seeds; asked: {ASKED}"
    report("defaults", title, COLUMNS, rows, facts)


def _described(scores: Any) -> list[Any]:
    """The other columns of a row, of scores on the host."""
    return [
        *(float(np.mean(scores.accuracy)), _range(scores.accuracy), float(np.mean(scores.nll))),
        *(_range(scores.nll), float(np.mean(scores.evidence)), float(np.max(scores.evidence))),
        *(float(np.mean(scores.before)), int(scores.diverged.sum()), bool(scores.finite.all())),
    ]


def _range(values: np.ndarray) -> str:
    return f"{values.min():.3f} … {values.max():.3f}"
