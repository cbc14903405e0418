"""A comparison: it searches, keeps each optimizer's result in its folder, and reports."""

import shlex
import textwrap
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.console import Console

from nag_optax.compare import report
from nag_optax.compare.report import (
    COMPARISON,
    FIGURE,
    TABLE,
    ComparisonFolder,
    markdown_table,
    plain,
    to_json,
)
from nag_optax.compare.search import Contender, Trial, contender_of, judged, search
from nag_optax.compare.spec import ComparisonSpec
from nag_optax.train.environment import environment_of, headline
from nag_optax.train.errors import InputError, interrupted
from nag_optax.train.parallel import Device
from nag_optax.train.progress import LiveBar, say
from nag_optax.train.rows import Model


class CompareProgress(LiveBar):
    """Use as a context manager around the comparison."""

    def __init__(self, console: Console, num_runs: int):
        super().__init__(console, "runs", total=num_runs)
        self._total, self._done = num_runs, 0.0

    def describe(self, text: str) -> None:
        self.update(self.task, description=text)

    def add_runs(self, count: int) -> None:
        """The search goes on, with more runs than it began with."""
        self._total += count
        self.update(self.task, total=self._total)

    def count_runs(self, runs: float) -> None:
        # Rounded: shares of a run that add up to 3 may end a rounding below it.
        self._done = round(self._done + runs, 6)
        self.update(self.task, completed=self._done)


_Spec = TypeVar("_Spec", bound=ComparisonSpec)
_VERSIONS = ("nag_optax", "jax", "jaxlib", "optax", "flax")


class Comparison(ABC, Generic[_Spec]):
    """The shared part of comparisons on data and on a problem: search, progress, report."""

    title: str
    explanation: str
    """How to read the table."""
    facts: dict[str, Any]
    """The content of `comparison.json` beside the optimizers."""
    runs_a_rate: int
    """Runs at one learning rate."""
    grid_size: int
    """Learning rates to begin with."""
    runs_at_best = 0
    """Further runs at the best of them."""
    data: str | None = None
    """Digest of the training data, kept with each result."""
    source = ""
    """The option that chose them, and its value."""
    model: Model | None = None
    """The model that every optimizer trains."""
    target: float | None = None
    """Test accuracy to which steps are counted."""

    def __init__(
        self, spec: _Spec, folder: ComparisonFolder, device: Device, console: Console, interrupts: list[int]
    ):
        self.spec, self.folder, self.device = spec, folder, device
        self.console, self.interrupts = console, interrupts

    def carry_out(self) -> dict[str, Any]:
        spec = self.spec
        stored = {name: self.folder.result(name) for name in spec.optimizers} if spec.resume else {}
        self._results = {name: result for name, result in stored.items() if result is not None}
        if other := [name for name, result in self._results.items() if result.get("data") != self.data]:
            raise InputError(
                f"{self.source}: has other training data than those of "
                f"{', '.join(other)} in {self.folder.path}"
            )
        if spec.resume:
            self.folder.write_config()
        missing = [name for name in spec.optimizers if name not in self._results]
        if self._results:
            say(self.console, f"kept in {self.folder.path}: {', '.join(self._results)}")
        if spec.learning_rates != "auto":
            self.grid_size = len(spec.learning_rates)
        num_runs = len(missing) * (self.grid_size * self.runs_a_rate + self.runs_at_best)
        with CompareProgress(self.console, num_runs) as self.progress:
            for position, name in enumerate(missing, 1):
                self.check_interrupts()
                self.progress.describe(f"{name} ({position}/{len(missing)})")
                started = time.perf_counter()
                result = self._results[name] = plain(self._result(name))
                self.folder.write_result(name, result)
                seconds = time.perf_counter() - started
                ending = result["note"] if result["best"] is None else self.ending(result)
                self.progress.say(f"{result['label']:<20} {ending}  {seconds:6.1f} s")
            ordered = [self._results[name] for name in spec.optimizers]
            self.measure(ordered)
        return self._report(ordered)

    @abstractmethod
    def run(self, contender: Contender, learning_rates: Sequence[float]) -> list[Trial]:
        """A trial for each learning rate."""

    @abstractmethod
    def score(self, trial: Trial) -> Any:
        """The score, which is smallest at the best learning rate; None if the trial diverged."""

    @abstractmethod
    def rung(self, contender: Contender) -> Callable[[int], float]:
        """The ladder of learning rates, around the middle of the grid."""

    @abstractmethod
    def ending(self, result: dict[str, Any]) -> str:
        """The result of an optimizer that did not diverge, for the progress."""

    @abstractmethod
    def draw(self, results: list[dict[str, Any]], path: Path) -> None:
        """Writes the figure."""

    def at_best(self, contender: Contender, best: Trial | None) -> dict[str, Any]:
        """Facts of an optimizer beside its trials, once the best of them is known."""
        return {}

    def measure(self, results: list[dict[str, Any]]) -> None:
        """Adds what is measured for all optimizers together."""

    def check_interrupts(self) -> None:
        """Ends the comparison between two chunks of work if a signal came."""
        if not self.interrupts:
            return
        finished = [name for name in self.spec.optimizers if name in self._results]
        kept = f"finished and kept: {', '.join(finished)}" if finished else "no optimizer was finished"
        resume = f"nag-optax compare --resume --run-dir {shlex.quote(str(self.folder.path))}"
        raise interrupted(self.interrupts, f"; {kept}; continue with: {resume}")

    def _result(self, name: str) -> dict[str, Any]:
        contender = contender_of(name, self.model)
        planned = self.grid_size

        def run(learning_rates: Sequence[float]) -> list[Trial]:
            nonlocal planned
            planned -= len(learning_rates)
            if planned < 0:
                self.progress.add_runs(-planned * self.runs_a_rate)
                planned = 0
            return self.run(contender, learning_rates)

        rates = self.spec.learning_rates
        if rates == "auto":
            found = search(run, self.score, self.rung(contender), self.grid_size // 2)
        else:
            found = judged(run(sorted(rates)), self.score)
        return {
            "name": name,
            "label": contender.row.label,
            "best": found.best,
            "note": found.note,
            "data": self.data,
            **self.at_best(contender, None if found.best is None else found.trials[found.best]),
            "trials": found.trials,
        }

    def _report(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        folder = self.folder
        environment = environment_of(*_VERSIONS)
        if self.device.platform != "cpu":
            environment["machine"]["device"] = self.device.device_kind
        config = self.spec.to_dict()
        comparison = plain({"config": config, **environment, **self.facts, "optimizers": results})
        folder.write(COMPARISON, to_json(comparison))
        with folder.writing():
            self.draw(results, folder.path / FIGURE)
        notes = report.notes(results)
        listed = "".join(f"- {note}\n" for note in notes) + "\n" * bool(notes)
        folder.write(
            TABLE,
            f"# {self.title}\n\n{markdown_table(*report.rows(self.target, results))}\n"
            f"{textwrap.fill(self.explanation, 100)}\n\n{listed}"
            f"![Curves of every optimizer, and its final value over the learning rate.]({FIGURE})\n\n"
            f"```bash\n{report.command(config)}\n```\n\n{headline(environment)}\n",
        )
        self.console.print(report.rich_table(self.title, self.target, results))
        for note in notes:
            say(self.console, note)
        say(self.console, f"saved in {folder.path}: {COMPARISON}, {TABLE}, {FIGURE}")
        return comparison
