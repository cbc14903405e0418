"""The tables of a result of this benchmark; no solver is needed for them."""

from collections.abc import Sequence
from typing import Any

MAX_STEPS = 20_000
COLUMNS = ("problem", "solver", *2 * ("iterations", "gradients", "values", "ms"))
OUTCOMES = ("converged", "false claim", "stalled", "NaN")
OUTCOME_COLUMNS = ("precision", "solver", *OUTCOMES, "most iterations")

Groups = list[list[tuple[str, ...]]]


def of(result: dict[str, Any]) -> list[tuple[str, tuple[str, ...], Groups]]:
    """Title, columns and rows of both tables."""
    first, second = result["problems"][0]["gaps"]
    scales = sorted({entry["smoothness"] for entry in result["scaling"]})
    return [
        (
            f"Until the gap (F(x) − min F)/(F(0) − min F) is {first:g}, in the first four columns of "
            f"numbers, and {second:g}, in the others",
            COLUMNS,
            rows(result["problems"]),
        ),
        (
            f"Lasso 500×600 with L from {scales[0]:g} to {scales[-1]:g}: outcomes at {len(scales)} scales",
            OUTCOME_COLUMNS,
            outcome_rows(result["scaling"]),
        ),
    ]


def rows(measured: Sequence[dict[str, Any]]) -> Groups:
    """Of the table: a group of rows for each problem, one for each solver."""
    return [
        [
            (problem["name"] if i == 0 else "", name, *(cell for at in results for cell in _cells(at)))
            for i, (name, results) in enumerate(problem["solvers"].items())
        ]
        for problem in measured
    ]


def outcome_rows(entries: Sequence[dict[str, Any]]) -> Groups:
    """How often each outcome, by precision and solver."""
    groups = []
    solvers = dict.fromkeys(entry["solver"] for entry in entries)
    for precision in dict.fromkeys(entry["precision"] for entry in entries):
        group = []
        for i, name in enumerate(solvers):
            mine = [e for e in entries if (e["precision"], e["solver"]) == (precision, name)]
            counts = (str(sum(e["outcome"] == outcome for e in mine)) for outcome in OUTCOMES)
            most = str(max(e["iterations"] for e in mine))
            group.append((precision if i == 0 else "", name, *counts, most))
        groups.append(group)
    return groups


def _cells(at: dict[str, Any]) -> tuple[str, ...]:
    if at["iterations"] is None:
        return (f"> {MAX_STEPS}", "", "", "")
    counts = ("" if at[key] is None else str(at[key]) for key in ("iterations", "gradients", "values"))
    return (*counts, f"{at['milliseconds']:.2f}")
