"""A comparison: it searches each optimizer's learning rate, keeps the result in its folder, and reports.

The grid of a search is small, and grows while the best rate is at its edge.
"""

import math
import shlex
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.console import Console

from nag_optax.compare import report
from nag_optax.compare.report import markdown_table, plain, to_json
from nag_optax.compare.spec import COMPARISON, CONTENDERS, FIGURE, RESULTS, TABLE, ComparisonFolder
from nag_optax.train.environment import environment_of, headline
from nag_optax.train.errors import InputError, interrupted
from nag_optax.train.parallel import Device
from nag_optax.train.progress import LiveBar, say

if TYPE_CHECKING:
    from nag_optax.compare.images import Images
    from nag_optax.compare.problems import Descents

_VERSIONS = ("nag_optax", "jax", "jaxlib", "optax", "flax")


@dataclass
class Comparison:
    """A comparison under way. The subject gives each optimizer's result, and says what it means."""

    subject: "Images | Descents"
    folder: ComparisonFolder
    device: Device
    console: Console
    interrupts: list[int]
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def carry_out(self) -> dict[str, Any]:
        """Finds what is missing, and returns the content of `comparison.json`."""
        names, results, subject = self.subject.spec.optimizers, self.results, self.subject
        if subject.spec.resume:
            self.take_up()
        with self.folder.writing():
            (self.folder.path / RESULTS).mkdir(exist_ok=True)
        with LiveBar(self.console, "optimizers", total=len(names)) as self.bar:
            for name in names:
                if name in results:
                    continue
                self.look()
                self.bar.update(self.bar.task, description=name, completed=len(results))
                started, row = time.perf_counter(), CONTENDERS[name]
                about = {"name": name, "label": row.label, "data": subject.data}
                result = results[name] = plain(about | subject.result(row, self.advance))
                self.folder.write(f"{RESULTS}/{name}.json", to_json(result))
                seconds = time.perf_counter() - started
                ending = result["note"] if result["best"] is None else subject.ending(result)
                self.bar.say(f"{row.label:<20} {ending}  {seconds:6.1f} s")
            self.bar.update(self.bar.task, description="timing single runs", completed=len(names))
            ordered = [results[name] for name in names]
            subject.measure(ordered, self.look)
        return self.report(ordered)

    def take_up(self) -> None:
        """Takes up the results in the folder."""
        folder, subject = self.folder, self.subject
        stored = {name: folder.read(f"{RESULTS}/{name}.json") for name in subject.spec.optimizers}
        self.results.update((name, result) for name, result in stored.items() if result is not None)
        if other := [name for name, r in self.results.items() if r.get("data") != subject.data]:
            names = ", ".join(other)
            raise InputError(
                f"{subject.source}: has other training data than those of {names} in {folder.path}"
            )
        folder.write_config()
        if self.results:
            say(self.console, f"kept in {folder.path}: {', '.join(self.results)}")

    def advance(self, share: float) -> None:
        """Moves the bar by a share of an optimizer, and never beyond it: a search that grows takes longer."""
        (task,) = self.bar.tasks
        completed = min(task.completed + share, len(self.results) + 0.99)
        self.bar.update(task.id, completed=completed)
        self.look()

    def look(self) -> None:
        """Ends the comparison between two chunks of work if a signal came."""
        if not self.interrupts:
            return
        finished = [name for name in self.subject.spec.optimizers if name in self.results]
        kept = f"finished and kept: {', '.join(finished)}" if finished else "no optimizer was finished"
        resume = f"nag-optax compare --resume --run-dir {shlex.quote(str(self.folder.path))}"
        raise interrupted(self.interrupts, f"; {kept}; continue with: {resume}")

    def report(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        folder, subject = self.folder, self.subject
        environment = environment_of(*_VERSIONS, device=self.device)
        config = subject.spec.to_dict()
        comparison = plain({"config": config, **environment, **subject.facts, "optimizers": results})
        folder.write(COMPARISON, to_json(comparison))
        with folder.writing():
            subject.draw(results, folder.path / FIGURE)
        table, notes = report.rows(config["target"], results), report.notes(results)
        listed = "".join(f"- {note}\n" for note in notes) + "\n" * bool(notes)
        folder.write(
            TABLE,
            f"# {subject.title}\n\n{markdown_table(*table)}\n"
            f"{textwrap.fill(subject.explanation, 100)}\n\n{listed}"
            f"![Curves of every optimizer, and its final value over the learning rate.]({FIGURE})\n\n"
            f"```bash\n{report.command(config)}\n```\n\n{headline(environment)}\n",
        )
        self.console.print(report.rich_table(subject.title, *table))
        for note in notes:
            say(self.console, note)
        say(self.console, f"saved in {folder.path}: {COMPARISON}, {TABLE}, {FIGURE}")
        return comparison


Trial = dict[str, Any]
"""The result of one learning rate: at least `learning_rate`, and the fields that the score reads."""

_EXTENSION = 4  # more rungs on each side of the grid, at most


class Search(NamedTuple):
    """The position of the best trial, what a reader should know, and the trials by rising learning rate."""

    best: int | None
    note: str
    trials: list[Trial]


def decade_rung(centre: float) -> Callable[[int], float]:
    """Learning rates … 0.01, 0.03, 0.1, 0.3, 1 …; rung 0 is the one nearest to the centre."""
    nearest = round(2 * math.log10(centre))

    def rung(i: int) -> float:
        decade, half = divmod(nearest + i, 2)
        return float(f"{3 if half else 1}e{decade}")

    return rung


def doubling_rung(centre: float) -> Callable[[int], float]:
    """Learning rates centre·2^i."""
    return lambda i: centre * 2.0**i


def search(
    run: Callable[[Sequence[float]], list[Trial]],
    score: Callable[[Trial], Any],
    rung: Callable[[int], float],
    width: int,
    rates: Literal["auto"] | Sequence[float] = "auto",
) -> Search:
    """Tries `width` rungs on each side of rung 0, and more while the best is the outermost; or these rates.

    A score is smallest at the best, and None for a trial that diverged.
    """
    if rates != "auto":
        return judged(run(sorted(rates)), score)
    low, high = -width, width
    trials = run([rung(i) for i in range(low, high + 1)])
    while True:
        found = judged(trials, score)
        # Where everything diverges, smaller learning rates may not.
        if found.best in (0, None) and low > -width - _EXTENSION:
            low -= 1
            trials = [*run([rung(low)]), *trials]
        elif found.best == len(trials) - 1 and high < width + _EXTENSION:
            high += 1
            trials = [*trials, *run([rung(high)])]
        else:
            return found


def judged(trials: list[Trial], score: Callable[[Trial], Any]) -> Search:
    """The trials, by rising learning rate, with the best of them: the lower rate of two equal ones."""
    scores = [(value, i) for i, trial in enumerate(trials) if (value := score(trial)) is not None]
    best = min(scores)[1] if scores else None
    note = ""
    if best is None:
        note = "diverged at every learning rate tried"
    elif len(trials) > 1 and best in (0, len(trials) - 1):
        edge = "lowest" if best == 0 else "highest"
        note = f"best at the {edge} learning rate tried; one beyond it may be better"
    return Search(best, note, trials)
