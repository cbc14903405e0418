"""The tables of a comparison, its JSON, and the command that makes it again."""

import json
import math
import re
import shlex
import statistics
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nag_optax.compare.spec import GAPS, CompareOptions, resolve
from nag_optax.train.checks import flag
from nag_optax.train.registry import dataset_row


def plain(value: Any) -> Any:
    """The same with lists for arrays, None for numbers that are not finite, and six digits for the others."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # An array; NumPy is not imported here, because --help reads this.
        return plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def to_json(value: Any) -> str:
    """Strict JSON, indented, with a list of numbers on one line."""
    text = json.dumps(plain(value), indent=1, allow_nan=False)
    numbers = r"\[\s+((?:(?:-?[\d.]+(?:e[-+]?\d+)?|null|true|false),?\s+)+)\]"
    return re.sub(numbers, lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


Row = list[str]
LEAST_LOSS = 1e-8
"""Mean losses below this are not told apart. The least loss of one example above 0 is 6e-8 in float32."""

_NONE = "–"


def rows(target: float | None, results: Sequence[dict[str, Any]]) -> tuple[Row, list[Row]]:
    """The head and the rows, with the numbers of each optimizer at its chosen learning rate."""
    if target is not None:
        goal = f"{target:.4g}"
        head = ["optimizer", "learning rate", "validation loss", "test accuracy, %", "training loss"]
        head += [f"steps to {goal}", f"seconds to {goal}", "ms a step", "state, bytes a parameter"]
        return head, [_data_row(result) for result in results]
    head = ["optimizer", "learning rate", *(f"steps to {gap}" for gap in GAPS), "gap at the end"]
    return head, [_problem_row(result) for result in results]


def rich_table(title: str, head: Row, body: Sequence[Row]) -> Table:
    """The same table, for a terminal of 80 columns."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    shown = [i for i, column in enumerate(head) if column not in ("validation loss", "ms a step")]
    for i in shown:
        # In two lines, so that no column is wider than its numbers need.
        column = head[i].replace("state, bytes a parameter", "state B/param").replace(" ", "\n", 1)
        # Steps may wrap, where some seeds miss the target; nothing else may be cut.
        wraps = head[i].startswith("steps")
        table.add_column(column, justify="right" if i else "left", no_wrap=not wraps)
    for row in body:
        table.add_row(*(row[i].replace(" ± ", "±") for i in shown))
    return table


def notes(results: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{result['label']}: {result['note']}." for result in results if result["note"]]


def command(config: dict[str, Any]) -> str:
    """The command that makes the comparison of a `config.json` again, without options at their defaults."""
    dataset, model, problem = (config[name] for name in ("dataset", "model", "problem"))
    reads_files = dataset is not None and dataset_row(dataset).data_dir is not None
    data_dir = Path("DIR") if reads_files else None
    plain = resolve(CompareOptions(dataset, data_dir, model, problem=problem)).to_dict()
    # These choose the defaults of the others.
    plain |= {"dataset": "digits", "data_dir": None, "model": "mlp", "problem": None}
    fields = config | {"data_dir": config.get("data_dir") or data_dir}
    words = ["nag-optax", "compare"]
    for name, default in plain.items():
        value = fields.get(name)  # A file of before may lack one.
        values, defaults = (list(v) if isinstance(v, list | tuple) else [v] for v in (value, default))
        if value is not None and values != defaults:
            words += [flag(name), *(() if value is True else map(str, values))]
    return shlex.join(words)


def spread(values: Sequence[float | None], digits: str) -> str:
    """The mean ± the standard deviation of a sample, or the mean of one value alone."""
    finite = [v for v in values if v is not None]
    if not finite:
        return _NONE
    mean = f"{statistics.fmean(finite):{digits}}"
    if len(finite) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(finite):{'.0e' if 'e' in digits else digits}}"


def shown_loss(losses: Sequence[float]) -> str:
    """The same of losses, or the bound below which they are not told apart."""
    return "< 1e-8" if statistics.fmean(losses) < LEAST_LOSS else spread(losses, ".1e")


def counted(number: int | str, noun: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number} {noun}{'' if str(number) == '1' else 's'}"


def _data_row(result: dict[str, Any]) -> Row:
    rate = validation = _NONE
    ends = ["diverged", "diverged", _NONE, _NONE]
    chosen, seconds_per_step = result["chosen"], result["seconds_per_step"]
    if chosen is not None:
        best = result["trials"][result["best"]]
        rate, validation = f"{best['learning_rate']:g}", shown_loss(best["validation_loss"])
    if chosen is not None and not chosen["diverged"]:
        steps = chosen["steps_to_target"]
        reached = [s for s in steps if s is not None]
        missing = f" ({len(reached)}/{len(steps)})" if 0 < len(reached) < len(steps) else ""
        ends = [
            spread([100 * share for share in chosen["test_accuracy"]], ".2f"),
            shown_loss(chosen["train_loss"]),
            spread(steps, ".0f") + missing,
            f"{statistics.fmean(reached) * seconds_per_step:.2g}" if reached else _NONE,
        ]
    size = result["state_bytes_per_parameter"]
    # A whole number of bytes without the few that counters add to it.
    whole = math.isclose(size, round(size), abs_tol=0.05)
    cost = [f"{1e3 * seconds_per_step:.3g}", f"{size:.0f}" if whole else f"{size:.1f}"]
    return [result["label"], rate, validation, *ends, *cost]


def _problem_row(result: dict[str, Any]) -> Row:
    if result["best"] is None:
        return [result["label"], *[_NONE] * (1 + len(GAPS)), "diverged"]
    best = result["trials"][result["best"]]
    steps = [_NONE if s is None else str(s) for s in best["steps_to_gap"].values()]
    gap = best["final_gap"]
    end = "< 1e-15" if gap < 1e-15 else f"{gap:.1e}"  # of the order of a rounding
    return [result["label"], f"{best['learning_rate']:.3g}", *steps, end]


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]], text: Container[int] = (0,)) -> str:
    """The table, padded so that its source reads well. Text is aligned left, numbers right."""
    widths = [max(3, *(len(row[i]) for row in (head, *body))) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i in text else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |\n"

    rule = ["-" * w if i in text else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return line(head) + line(rule) + "".join(map(line, body))
