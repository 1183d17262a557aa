"""Two sizes of every experiment: minutes on two cores, and as published."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from rich.console import Console

Preset = Literal["minutes", "published"]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment on the command line: its fields are its options, its defaults the preset "minutes"."""

    published: ClassVar[Mapping[str, Any]] = {}
    """The defaults that differ under the preset "published"."""

    preset: Preset = "minutes"
    """Where the other options' defaults come from: minutes on two cores, or sizes as published."""
    output: Path = Path("results")
    """Folder for the results."""

    @classmethod
    def of(cls, preset: Preset, **options: Any) -> Self:
        """The experiment with a preset's defaults."""
        return cls(**{"preset": preset, **(cls.published if preset == "published" else {}), **options})

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        raise NotImplementedError(f"{type(self).__name__}: define run(console)")
