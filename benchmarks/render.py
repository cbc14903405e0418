"""Writes docs/benchmarks.md and docs/does-it-pay.md from the JSON files in benchmarks/results.

python -m benchmarks.render
"""

import json
import re
import sys
import textwrap
from collections.abc import Container, Sequence
from pathlib import Path

from benchmarks import pays, report
from benchmarks.sections import SECTIONS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE, PAYS = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "does-it-pay.md"
WIDTH = 80
"""Characters of a command that the site shows in one line."""

INTRODUCTION = """\
# Benchmarks

`python -m benchmarks.render` writes this page from the files in `benchmarks/results`; no number of a table
is typed. Programs that are compared take turns in one run, so that their ratios are steadier than their
times. Each section names its machine, its versions and the command that measures again. Notes on a table
also hold for the tables of the same kind below it.

## Nesterov's sequence and its bound

```bash
python -m benchmarks.exactness --figure benchmarks/results/exactness.png
```

![Left: objective of gradient descent and of nag, each below its proven bound. Right: distance from
Nesterov's sequence while the learning rate decays, of nag and of optax.sgd.](exactness.png)

The function is f(x) = ½ Σ λᵢ xᵢ², with 100 eigenvalues from 1 down to 1e-4 and x₀ = 1, in float64. Left: the
step size is 1/L and the momentum (k − 1)/(k + 2), beside gradient descent. Right: the momentum is 0.9, and
the learning rate decays by a cosine from 1/L.
"""


def section(path: Path, said: Container[str] = (), elsewhere: str | None = None) -> str:
    """Markdown of one file, without what the page says above or shows `elsewhere`, a link."""
    result = json.loads(path.read_text())
    made = SECTIONS[_kind(path)](result)
    lines = (command.replace("FILE", f"benchmarks/results/{path.name}") for command in made.commands)
    code = "\n".join(["```bash", *map(broken, lines), "```"])
    legend = "\n".join(f"- {line}" for line in made.legend if line not in said)
    parts = [f"## {made.title}", code, report.headline(result) + "."]
    tables = made.tables if elsewhere is None else [f"The numbers are on [Does it pay?]({elsewhere})."]
    return "\n\n".join(part.strip() for part in [*parts, *tables, legend] if part) + "\n"


def broken(command: str) -> str:
    """In lines that a page shows whole, each option beside its first value."""
    glued = re.sub(r"(--[\w-]+) ", "\\1\0", command)
    lines = textwrap.wrap(glued, WIDTH, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines).replace("\0", " ")


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
    sections = []
    for i, path in enumerate(known):
        above = [other for other in known[:i] if _kind(other) == _kind(path)]
        said = [line for other in above for line in _legend(other)]
        sections.append(section(path, said, pays.link(path.name)))
    return "\n".join([INTRODUCTION, *sections, *tail])


def _legend(path: Path) -> Sequence[str]:
    return SECTIONS[_kind(path)](json.loads(path.read_text())).legend


def main() -> None:
    if len(sys.argv) > 1:
        raise SystemExit("usage: python -m benchmarks.render")
    PAGE.write_text(page())
    PAYS.write_text(pays.page(RESULTS))


def _kind(path: Path) -> str:
    return path.stem.partition("-")[0]


if __name__ == "__main__":
    main()
