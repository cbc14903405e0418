"""The machine, the progress and the tables of every benchmark."""

import json
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nag_optax.compare import report
from nag_optax.train.environment import environment_of
from nag_optax.train.environment import headline as headline
from nag_optax.train.environment import num_cores as num_cores

Row = Sequence[str]
_errors = Console(stderr=True)


def environment() -> dict[str, Any]:
    """Date, machine and versions, for the JSON file."""
    return environment_of("nag_optax", "jax", "jaxlib", "optax", "torch")


@contextmanager
def progress(title: str, rounds: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr, a plain line where stderr is no terminal; yields what advances it."""
    if not _errors.is_interactive:
        note(f"{title} ...")
        yield lambda: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=_errors, transient=True) as bar:
        task = bar.add_task(title, total=rounds)
        yield lambda: bar.advance(task)


def note(line: str) -> None:
    """One line on stderr."""
    _errors.print(line, highlight=False, markup=False, soft_wrap=True)


def show(title: str, columns: Row, groups: Sequence[Sequence[Row]]) -> None:
    """The table on stdout: drawn in a terminal, as plain text elsewhere."""
    console = Console()
    if not console.is_terminal:
        print(f"{title}\n\n{markdown_table(columns, groups)}", end="")
        return
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < 2 else "right")
    for group in groups:
        for row in group:
            table.add_row(*row, end_section=row is group[-1])
    console.print(table)


def seconds_to_compile(numbers: dict[str, Any], digits: int) -> str:
    """The cell of a table: tracing, lowering and compilation, empty where that was not measured."""
    if numbers.get("compile_seconds") is None:
        return ""
    return f"{numbers['trace_seconds'] + numbers['compile_seconds']:.{digits}f}"


def markdown_table(columns: Row, groups: Sequence[Sequence[Row]], text: Container[int] = (0, 1)) -> str:
    """Rows in groups; the columns of these positions are text."""
    return report.markdown_table(columns, [row for group in groups for row in group], text)


def write_json(path: Path, result: dict[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=2) + "\n")
