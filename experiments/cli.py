"""The command line: every file of the catalogue is an experiment; none is imported before it is asked for."""

import argparse
import ast
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import catalogue as files

_COMMANDS = {
    "all": "Every experiment whose data need not be put somewhere by hand, one after the other",
    "report": "Write the pages again from results.json: [NAME ...]",
    "fill": "Write the marked numbers and tables of documents again from results.json: FILE ... [--check]",
}


def catalogue() -> dict[str, str]:
    """The name of every experiment and what its file says it is, in one line."""
    found = {}
    for module in sorted(pkgutil.iter_modules(files.__path__), key=lambda module: module.name):
        path: Any = module.module_finder.find_spec(module.name, None)  # type: ignore[call-arg]
        text = ast.get_docstring(ast.parse(Path(path.origin).read_text(encoding="utf-8"))) or ""
        found[module.name.replace("_", "-")] = text.partition("\n")[0].rstrip(".")
    return found


def load(name: str) -> type:
    """The class of an experiment: the one that its file defines.

    Raises:
        ValueError: there is no such experiment, or its file does not define one class of experiments.
    """
    from experiments.run.experiment import Experiment  # noqa: PLC0415  pandas, and what it brings, take a second

    if name not in catalogue():
        raise ValueError(f"expected an experiment: {', '.join(catalogue())}, got {name!r}; --help describes each")
    module = importlib.import_module(f"experiments.catalogue.{name.replace('-', '_')}")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Experiment)]
    kinds = [kind for kind in kinds if kind.__module__ == module.__name__]
    if len(kinds) != 1:
        raise ValueError(f"{module.__file__}: expected one class of experiments, got {len(kinds)}; leave one in it")
    return kinds[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one experiment, or all, or write pages and documents again."""
    experiments = catalogue()
    lines = [f"  {name:<18} {text}" for name, text in (experiments | _COMMANDS).items()]
    parser = argparse.ArgumentParser(
        "python -m experiments",
        usage="%(prog)s NAME [options]",
        description="Experiments with filters of weights and latent filters. NAME --help shows the options of one.",
        epilog="\n".join(["names:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*experiments, *_COMMANDS], metavar="NAME", help="one of those below")
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = parser.parse_args(given[:1]).name, given[1:]
    if name in ("report", "fill"):
        from experiments.run import report  # noqa: PLC0415

        sys.exit(report.rewrite(rest) if name == "report" else report.fill(rest))
    from experiments.run import options  # noqa: PLC0415

    if name == "all":
        options.run_all({each: load(each) for each in experiments}, rest)
    else:
        options.run(load(name), name, rest)


if __name__ == "__main__":
    main()
