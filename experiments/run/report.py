"""Pages, tables and the numbers in documents, all made of results.json alone.

A document marks what it takes; ``python -m experiments fill FILE`` writes it there (experiments/README.md)::

    <!--= rotated-digits smoother accuracy -->85.5 ± 0.7<!--/-->
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table as Printed

from experiments.run import pictures, results
from experiments.run.labels import label

RESULTS = Path(__file__).parents[1] / "results"
_PERCENT = {"accuracy", "ece", "current", "backward_transfer", "forward_transfer", "forgetting"}
_LOWER = {"nll", "mse", "crps", "ece", "forgetting", "max_nll", "spikes"}
# What texts say in the plural, of whatever number.
_ONE = re.compile(
    r"(?<![\d.,])1 (seed|shuffle|stream|task|permutation|image|window|step|update|time|epoch|batch)(?:e?s)\b"
)
_MARK = re.compile(r"(<!--= (.*?) -->)(.*?)(<!--/-->)", re.DOTALL)


class Table(NamedTuple):
    """Cells as text.

    Attributes:
        head: names of the columns.
        rows: each as long as the head.
        caption: stands above it.
        words: so many columns at the left hold words, the others numbers.
        narrow: the columns that fit a terminal, where not all do.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    words: int = 1
    narrow: Sequence[str] = ()

    def markdown(self) -> str:
        """Numbers are aligned to the right."""
        lines = [self.head, ["---"] * self.words + ["---:"] * (len(self.head) - self.words), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def picked(self, rows: Sequence[str] = (), columns: Sequence[str] = (), *, turned: bool = False) -> "Table":
        """Some rows by their first cell and some columns by their head, in that order; or rows as columns."""
        chosen = [next(row for row in self.rows if row[0] == name) for name in rows] if rows else list(self.rows)
        places = [0, *(list(self.head).index(name) for name in columns)] if columns else range(len(self.head))
        whole = [[line[place] for place in places] for line in (self.head, *chosen)]
        whole = [list(line) for line in zip(*whole, strict=True)] if turned else whole
        return self._replace(head=whole[0], rows=whole[1:], words=1 if turned or columns else self.words)


def scores(content: Mapping[str, Any]) -> Table:
    """Every metric of every method, mean ± standard error over seeds."""
    found = results.frame(content)
    whole = found[found["task"].isna()]
    metrics = [metric for metric in whole["metric"].unique() if whole[whole["metric"] == metric]["seed"].notna().any()]
    variants = [variant for variant in whole["variant"].unique() if variant]
    rows = []
    for variant, method in whole[["variant", "method"]].drop_duplicates().itertuples(index=False):
        part = whole[(whole["variant"] == variant) & (whole["method"] == method)]
        cells = [part[part["metric"] == metric]["value"].dropna().to_numpy(float) for metric in metrics]
        lead = [variant, label(method)] if variants else [label(method)]
        rows.append([*lead, *(shown(cell, *scale(metric)) for metric, cell in zip(metrics, cells, strict=True))])
    heads = [f"{metric}, %" if metric in _PERCENT else metric for metric in metrics]
    words = 1 + bool(variants)
    return Table(
        [*(["variant"] if variants else []), "method", *heads], rows, "Mean ± standard error over seeds.", words
    )


def scale(metric: str) -> tuple[float, str]:
    """What a metric is multiplied with, and how it is written."""
    return (100, ".1f") if metric in _PERCENT else (1, ".4g")


def shown(per_seed: Sequence[float] | np.ndarray, factor: float = 1, form: str = ".4g") -> str:
    """Mean ± standard error, or nothing of nothing."""
    values = np.asarray(per_seed, float)
    error = results.standard_error(values)
    if not len(values):
        return ""
    text = f"{factor * values.mean():{form}}"
    return text if error is None else f"{text} ± {factor * error:{form.removeprefix('+')}}"


def brief(chosen: Mapping[str, Any]) -> str:
    """Settings in one line, such as ``rank=10 noise=0.3``, with four digits at most."""
    parts = [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in chosen.items()]
    return " ".join(parts) or "–"


def page(kind: Any, folder: Path) -> str:
    """The text of a page of results."""
    content = results.read(folder)
    parts = [f"# {content['title']}", content.get("introduction", ""), "Every number is in results.json."]
    for part in kind.tables(content).values():
        parts += [part] if isinstance(part, str) else [part.caption, part.markdown()]
    drawn = [f"{name}.png" for name in kind.pictures(content, _arrays(folder))]
    others = sorted(path.name for path in folder.glob("*.png") if path.name not in drawn)
    parts += [f"![{name}]({name})" for name in [*drawn, *others]]
    if seconds := content.get("seconds"):
        each = [f"{', '.join(map(label, name.split(', ')))} {value:.0f}" for name, value in seconds.items()]
        parts.append(f"Seconds: {'; '.join(each)}.")
    return _ONE.sub(r"1 \1", "\n\n".join(part for part in parts if part)) + "\n"


def write(kind: Any, folder: Path) -> None:
    """Draw the pictures of a folder of results, as far as what they need is there, and write its page."""
    for name, draw in kind.pictures(results.read(folder), _arrays(folder)).items():
        with results.written_whole(folder / f"{name}.png") as file:
            pictures.save(draw, file)
    with results.written_whole(folder / "README.md") as file:
        file.write(page(kind, folder).encode())


def show(kind: Any, folder: Path, console: Console) -> None:
    """Print the tables of a page."""
    content = results.read(folder)
    console.print(f"[bold]{content['title']}[/bold]")
    for part in kind.tables(content).values():
        if isinstance(part, str):
            console.print(Markdown(part))
            continue
        table = Printed(title=part.caption or None, title_justify="left")
        if part.narrow:
            part = part.picked(columns=part.narrow)
        for place, name in enumerate(part.head):
            table.add_column(name, justify="left" if place < part.words else "right", overflow="fold")
        for row in part.rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"Results and pictures are in [bold]{folder}[/bold].")


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    path = folder / "arrays.npz"
    if not path.exists():
        return {}
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def rewrite(names: Sequence[str], root: Path = RESULTS) -> None:
    """Write the pages and pictures of some folders of results again, or of all."""
    for folder in [root / name for name in names] or sorted(path.parent for path in root.glob("*/results.json")):
        write(kind_of(folder), folder)
        print(folder.name)


def kind_of(folder: Path) -> Any:
    """The class of the experiment that wrote a folder."""
    from experiments.cli import load  # noqa: PLC0415

    return load(results.read(folder)["catalogue"])


def fill(arguments: Sequence[str], root: Path = RESULTS) -> int:
    """Write what documents take from results; with ``--check`` nothing is written. Returns how many differed."""
    differing = 0
    for path in (Path(name) for name in arguments if name != "--check"):
        text = path.read_text(encoding="utf-8")
        if (new := filled(text, root)) != text:
            differing += 1
            print(f"{path}: {'differs from' if '--check' in arguments else 'written from'} results.json")
            if "--check" not in arguments:
                with results.written_whole(path) as file:
                    file.write(new.encode())
    return differing if "--check" in arguments else 0


def filled(text: str, root: Path = RESULTS) -> str:
    """The text with everything that is marked taken from results anew.

    Raises:
        ValueError: a mark names something that is not in the results; the message repeats the mark.
    """

    def replaced(match: re.Match) -> str:
        try:
            return f"{match[1]}{fragment(shlex.split(match[2]), root)}{match[4]}"
        except (KeyError, IndexError, StopIteration, ValueError) as error:
            raise ValueError(f"{match[1]}: expected what is in the results, but {error!r}; correct the mark") from error

    return _MARK.sub(replaced, text)


def fragment(words: Sequence[str], root: Path = RESULTS) -> str:
    """What a mark stands for."""
    folder, options = root / words[0], dict(word.split("=", 1) for word in words if "=" in word)
    flags, content = [word for word in words[1:] if "=" not in word], results.read(folder)
    if flags[0] == "table":
        table: Any = kind_of(folder).tables(content)[flags[1]]
        rows, columns = (options[name].split("|") if name in options else () for name in ("rows", "columns"))
        return f"\n{table.picked(rows, columns, turned='turned' in flags).markdown()}\n"
    if flags[0] == "value":
        value: Any = content
        for name in flags[1].split("/"):
            value = value[int(name)] if isinstance(value, list) else value[name]
        value = float(options["times"]) * value if "times" in options else value
        return _signed(f"{value:{options.get('form', '')}}")
    frame = results.frame(content)
    if "variant" in options:
        frame = frame[frame["variant"] == options["variant"]]
    tasks = options["tasks"].split("|") if "tasks" in options else None
    paired = flags[1] == "-"
    metric = flags[3 if paired else 1]
    if paired:
        per_seed = results.difference(frame, flags[0], flags[2], metric, tasks)
    else:
        part = frame[(frame["method"] == flags[0]) & (frame["metric"] == metric)]
        part = part[part["task"].isna()] if tasks is None else part[part["task"].isin(tasks)]
        per_seed = part.groupby("seed")["value"].mean().to_list() or part["value"].to_list()
    factor, form = scale(metric)
    factor, form = float(options.get("times", factor)), options.get("form", f"+{form}" if paired else form)
    if "won" in flags:
        sign = -1 if metric in _LOWER else 1
        return f"{sum(sign * value > 0 for value in per_seed)} of {len(per_seed)}"
    if not len(per_seed):
        raise KeyError(f"{flags[0]} {metric}")
    return _signed(shown(np.atleast_1d(np.mean(per_seed)) if "mean" in flags else per_seed, factor, form))


def _signed(text: str) -> str:
    return text.replace("-", "−")
