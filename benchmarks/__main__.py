"""``python -m benchmarks``: what a network costs on this machine; ``python -m benchmarks NAME``: one comparison."""

import importlib
import os
from typing import Annotated, Literal

# LAPACK on more threads than free cores stalls small decompositions by orders of magnitude; read when JAX is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# jaxlib 0.10's CPU runtime can wait for ever where it runs several batched products at once (blocks per unit).
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_enable_concurrency_optimized_scheduler=false")

import tyro

Name = Literal[
    "cost",
    "classes",
    "compile",
    "defaults",
    "streaming",
    "online",
    "laplace",
    "large",
    "seeds",
    "growth",
    "truncation",
    "latenttrack",
    "coverage",
    "observe",
    "accelerator",
    "gaussian_process",
    "gaussian_regression",
]


def run(
    name: Annotated[Name, tyro.conf.Positional] = "cost",
    *,
    parameters: int = 89_610,
    rank: int = 20,
    outputs: int = 10,
    examples: int = 1000,
) -> None:
    """Run a benchmark, print its table and write it to benchmarks/results/NAME.json.

    Args:
        name: which; "cost" needs no peers and no data.
        parameters: cost: D, about how many parameters the network has.
        rank: cost: k.
        outputs: cost: C, how many outputs it has.
        examples: cost: B, how many examples a Laplace update takes.
    """
    module = importlib.import_module(f"benchmarks.{name}")
    if name == "cost":
        module.main(parameters, rank, outputs, examples)
    else:
        module.main()


if __name__ == "__main__":
    tyro.cli(run)
