"""``python -m experiments NAME [options]``."""

import argparse
import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# LAPACK on more threads than free cores stalls small decompositions by orders of magnitude; read when JAX is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# On a CPU, jaxlib's decomposition of a batch waits in one of XLA's threads for others of them. Blocks per unit have one
# for each layer: when every thread is in one, all wait for ever. Read when JAX first computes, which imports below do.
os.environ.setdefault("NPROC", str(max(16, os.cpu_count() or 1)))

import tyro
from rich.console import Console

from experiments import options
from experiments.claim import read_json, write_json
from experiments.jena import Jena
from experiments.jena_ablation import JenaAblation
from experiments.presets import Experiment, Preset
from experiments.sequences.camelyon import Camelyon
from experiments.sequences.long import LongSequence
from experiments.sequences.noise import NoiseStructure
from experiments.sequences.other_networks import OtherNetworks
from experiments.sequences.permuted import PermutedDigits, PermutedMnist
from experiments.sequences.rank import Rank
from experiments.sequences.rotated_digits import RotatedDigits
from experiments.sequences.rotated_mnist import RotatedMnist
from experiments.sequences.shifts import Shifts
from experiments.streams_others import Streams
from experiments.structure_comparison import StructureComparison
from experiments.truncation_cost import TruncationCost
from lowrank_filter.common.lock import alone

EXPERIMENTS: dict[str, type[Experiment]] = {
    "rotated-digits": RotatedDigits,
    "permuted-digits": PermutedDigits,
    "permuted-mnist": PermutedMnist,
    "long": LongSequence,
    "rotated-mnist": RotatedMnist,
    "structures": StructureComparison,
    "noise": NoiseStructure,
    "truncation": TruncationCost,
    "rank": Rank,
    "shifts": Shifts,
    "networks": OtherNetworks,
}
"""One line for each experiment with tasks."""

ASKED_FOR = {"camelyon": Camelyon()}
"""Those whose data has to be put into a folder by hand."""

STREAMS = {"jena": Jena(), "jena-ablation": JenaAblation(), "streams": Streams()}
"""Those with time series, whose presets are their own."""


@dataclasses.dataclass(frozen=True)
class All(Experiment):
    """Every experiment, one after the other; a run that was interrupted goes on where it stopped."""

    def run(self, console: Console) -> None:
        """Run those that have not finished yet."""
        with alone(self.output):
            self._run(console)

    def _run(self, console: Console) -> None:
        path = self.output / "all.json"
        state = read_json(path, {}) if self.resume else {}
        seconds: dict[str, float] = {}
        if state.get("preset") == self.preset and set(EXPERIMENTS) - set(state["seconds"]):
            seconds = state["seconds"]
        for name, experiment in EXPERIMENTS.items():
            if name in seconds:
                continue
            console.rule(name)
            began = time.perf_counter()
            experiment.of(self.preset, output=self.output, resume=self.resume).run(console)
            seconds[name] = time.perf_counter() - began
            write_json(path, {"preset": self.preset, "seconds": seconds})


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, or ``arguments``, and run one experiment."""
    # The preset and a file decide the defaults that --help shows and that the other options replace.
    file = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    file.add_argument("--config", type=Path)
    config, rest = file.parse_known_args(arguments)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="minutes")
    known, _ = parser.parse_known_args(rest)
    preset: Preset = "published" if known.preset == "published" else "minutes"
    defaults: dict[str, Any] = {name: kind.of(preset) for name, kind in (EXPERIMENTS | {"all": All}).items()}
    defaults |= ASKED_FOR | STREAMS
    name = next((argument for argument in rest if argument in defaults), None)
    if config.config is not None and name is not None:
        try:
            defaults[name] = options.from_file(config.config, defaults[name])
        except ValueError as error:
            file.exit(2, f"{error}\n")
    experiment = tyro.cli(
        tyro.extras.subcommand_type_from_defaults(defaults),
        args=rest,
        prog="python -m experiments",
        description="Experiments with filters of weights and latent filters; each writes a table to results/NAME/. "
        "--config FILE takes options from a JSON file; those on the command line go before them.",
    )
    experiment.run(Console())


if __name__ == "__main__":
    main()
