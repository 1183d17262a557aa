"""Methods that several experiments compare, and what their reports are called."""

import itertools
from collections.abc import Mapping

from experiments.continual import learners
from experiments.continual.learners import Method, filtering, follow
from experiments.continual.structures import FORMS, Form, Structure
from experiments.continual.summary import Pair

NAMES: Mapping[Form, str] = {"network": "filter", "layer": "layer", "unit": "unit", "kronecker": "kronecker"}
"""What the filter of each structure is called where only its last model is reported."""
PREFIX: Mapping[Form, str] = {"network": "", "layer": "layer_", "unit": "unit_", "kronecker": "kronecker_"}
"""What stands before the names of each structure's reports."""
REPORTS = {"filter_last": "last", "filter": "own", "smoother": "smoothed"}
"""The reports of one filter, and which of its models each stands for."""
UNSEEN = {"forecast": "own", "neighbours": "neighbours", "interpolated": "smoothed"}
"""Those of a filter that never saw the middle task."""
EARLY = (0, 1, 2)
"""The tasks that looking back should help."""


def retaining(
    rate: float,
    *,
    prior: tuple[float, ...],
    curvature: tuple[float, ...],
    strength: tuple[float, ...],
    rank: int,
    structures: tuple[Form, ...] = FORMS,
) -> tuple[Method, ...]:
    """Methods that should retain, trained alike; a filter is its last model: no task's own would have to forget."""
    rates = {"learning_rate": (rate,)}
    fixed = rates | {"prior": prior}
    filters = {NAMES[form]: Structure(form, rank) for form in structures}
    return (
        Method({"sequential": "last"}, rates, follow(learners.sequential)),
        Method({"anchor": "last"}, fixed | {"strength": strength}, follow(learners.anchor)),
        *(
            Method({name: "last"}, fixed | {"curvature": curvature}, follow(filtering(structure)))
            for name, structure in ({"ewc": Structure("network", 0)} | filters).items()
        ),
        Method({"joint": "joint"}, rates, learners.joint),
    )


def retained(structures: tuple[Form, ...]) -> tuple[Pair, ...]:
    """The comparisons that claims about retention rest on."""
    names = [NAMES[form] for form in structures]
    return (
        *(Pair(names[0], baseline) for baseline in ("sequential", "anchor", "ewc")),
        *(Pair(better, worse) for worse, better in itertools.pairwise(names)),
        Pair("joint", names[-1]),
    )


def reports(form: Form, kinds: Mapping[str, str]) -> dict[str, str]:
    """The reports of one structure's filter by name, and which of the run's models each stands for."""
    return {f"{PREFIX[form]}{name}": which for name, which in kinds.items()}


def looking_back(prefix: str, middle: int) -> list[Pair]:
    """The comparisons that claims about smoothing rest on."""
    smoother, unseen = f"{prefix}smoother", f"{prefix}interpolated"
    return [
        Pair(smoother, f"{prefix}filter"),
        Pair(smoother, f"{prefix}filter", EARLY),
        Pair(smoother, f"{prefix}filter_last"),
        Pair(unseen, f"{prefix}forecast"),
        Pair(unseen, f"{prefix}neighbours"),
        Pair(unseen, f"{prefix}filter", (middle,)),
        Pair(unseen, "alone", (middle,)),
    ]
