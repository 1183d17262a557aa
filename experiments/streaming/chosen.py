"""Learning rates and shares that a search on Jena Climate chose, for streams on which nothing is searched."""

from experiments.run import report, results
from experiments.streaming.training import Budget

CHOSEN = "jena-small", "easy"
"""Results, and the variant in them, by which each model's learning rate and share were chosen."""
CORRECTED = {"lt_adapted": "lt_structured", "gru_32_adapted": "gru_32"}
"""Models that a filter corrects, and whose parameters they have: training does not know the correction."""


def as_chosen(model: str, budget: Budget) -> Budget:
    """The budget with the one learning rate and share that were chosen for a model.

    Raises:
        ValueError: it is not in those results.
    """
    folder, variant = CHOSEN
    model = CORRECTED.get(model, model)
    found = results.read(report.RESULTS / folder)["variants"][variant]["models"]
    if model not in found:
        raise ValueError(f"models: expected names of {', '.join(found)}, got {model}; add it to {folder} first")
    chosen = found[model]["chosen"]
    shares = {"predictives": (chosen["predictive"],)} if "predictive" in chosen else {}
    return budget._replace(learning_rates=(chosen["learning_rate"],), **shares)
