"""Writes docs/benchmarks.md: every table, from the JSON files in benchmarks/results.

python -m benchmarks.render
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report, startup, step, training
from benchmarks.convex import tables as convex

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"

INTRODUCTION = """\
# Benchmarks

`python -m benchmarks.render` writes this page from the files in `benchmarks/results`; no number here is
typed. What is compared is timed in one run, in turns, so that the ratios are steadier than the times. Each
section names its machine, its versions and the command that measures again.

## Nesterov's sequence and its bound

```bash
python -m benchmarks.exactness --figure benchmarks/results/exactness.png
```

![Left: objective of gradient descent and of nag, each below its proven bound. Right: distance from
Nesterov's sequence while the learning rate decays, of nag and of optax.sgd.](exactness.png)

On f(x) = ½ Σ λᵢ xᵢ², 100 eigenvalues from 1 down to 1e-4 and x₀ = 1, in float64. Left: step size 1/L and
momentum (k − 1)/(k + 2), beside gradient descent. Right: momentum 0.9 and a learning rate that decays by a
cosine from 1/L.
"""


class Section(NamedTuple):
    """Of the page.

    Attributes:
        title: its heading.
        command: what measures again; `--json` and the file are appended.
        tables: Markdown, each with what stands above it.
        legend: how to read them, line by line.
    """

    title: str
    command: str
    tables: list[str]
    legend: Sequence[str]


def of_step(result: dict[str, Any]) -> Section:
    names = [entry["tree"] for entry in result["trees"]]
    trees = "" if names == step.DEFAULT_TREES else f" --trees {' '.join(names)}"
    return Section(
        "One update step",
        f"python -m benchmarks.step{trees} --repeats {result['repeats']}",
        [report.markdown_table(step.COLUMNS, [step.rows(entry) for entry in result["trees"]])],
        step.LEGEND.splitlines(),
    )


def of_training(result: dict[str, Any]) -> Section:
    data = " --data-dir DIR" if result["dataset"] == "mnist" else ""
    repeats = f" --repeats {result['repeats']}" if "repeats" in result else ""
    return Section(
        f"One epoch of training: {result['dataset']}, {result['model']}",
        f"python -m benchmarks.training{data} --model {result['model']} --steps {result['steps']}{repeats}",
        [report.markdown_table(training.COLUMNS, [training.rows(result)])],
        ["s an epoch: median and quartiles, scaled from the steps that were timed to an epoch."],
    )


def of_startup(result: dict[str, Any]) -> Section:
    return Section(
        "Import and `--help`",
        f"python -m benchmarks.startup --repeats {result['repeats']}",
        [report.markdown_table(startup.COLUMNS, [startup.rows(result)])],
        startup.LEGEND.splitlines(),
    )


def of_convex(result: dict[str, Any]) -> Section:
    tables = [
        f"{title}:\n\n{report.markdown_table(columns, groups)}"
        for title, columns, groups in convex.of(result)
    ]
    return Section("Convex problems", "python -m benchmarks.convex", tables, [])


def of_comparison(result: dict[str, Any]) -> Section:
    """Of `nag-optax compare`: its `comparison.json`, as benchmarks/results/comparison-NAME.json."""
    from nag_optax.compare import table
    from nag_optax.compare.config import CompareConfig

    config = CompareConfig(**result["config"])
    what = config.problem or f"{config.dataset}, {config.model}"
    head, body = table.rows(config, result["optimizers"])
    notes = table.notes(result["optimizers"])
    return Section(f"Optimizers: {what}", table.command(config), [table.markdown_table(head, body)], notes)


SECTIONS: dict[str, Callable[[dict[str, Any]], Section]] = {
    "convex": of_convex,
    "comparison": of_comparison,
    "step": of_step,
    "training": of_training,
    "startup": of_startup,
}
"""By the first word of the file's name, in the order of the page."""


def section(path: Path) -> str:
    """Markdown of one file."""
    result = json.loads(path.read_text())
    made = SECTIONS[_kind(path)](result)
    command = made.command
    if _kind(path) != "comparison":  # That one writes a folder.
        command += f" --json benchmarks/results/{path.name}"
    legend = "\n".join(f"- {line}" for line in made.legend)
    parts = [f"## {made.title}", f"```bash\n{command}\n```", report.headline(result) + "."]
    return "\n\n".join(part.strip() for part in [*parts, *made.tables, legend] if part) + "\n"


def page(results: Path = RESULTS) -> str:
    """The whole page."""
    paths = sorted(results.glob("*.json"))
    known = [path for kind in SECTIONS for path in paths if _kind(path) == kind]
    others = [
        f"- `{path.name}`: {report.headline(json.loads(path.read_text()))}"
        for path in paths
        if path not in known
    ]
    tail = ["## Further results\n\n" + "\n".join(others) + "\n"] if others else []
    return "\n".join([INTRODUCTION, *map(section, known), *tail])


def main() -> None:
    if len(sys.argv) > 1:
        raise SystemExit("usage: python -m benchmarks.render")
    PAGE.write_text(page())


def _kind(path: Path) -> str:
    return path.stem.partition("-")[0]


if __name__ == "__main__":
    main()
