"""A comparison and its folder: search, keep each optimizer's result, report."""

import shlex
import textwrap
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.console import Console

from nag_optax.compare import table
from nag_optax.compare.folder import COMPARISON, FIGURE, TABLE, ComparisonFolder, plain, to_json
from nag_optax.compare.search import Contender, Search, Trial, contender_of, search, search_given
from nag_optax.compare.spec import ComparisonSpec
from nag_optax.train.bar import LiveBar
from nag_optax.train.devices import Device
from nag_optax.train.environment import environment_of, headline
from nag_optax.train.errors import InputError
from nag_optax.train.markdown import markdown_table
from nag_optax.train.rows import Model
from nag_optax.train.signals import interrupted


class CompareProgress(LiveBar):
    """Use as a context manager around the comparison."""

    def __init__(self, console: Console, num_runs: int):
        super().__init__(console, "runs", total=num_runs)
        self._total = num_runs
        self._done = 0.0

    def describe(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def add_runs(self, count: int) -> None:
        """The search goes on: there are more runs than it began with."""
        self._total += count
        self._bar.update(self._task, total=self._total)

    def advance(self, runs: float) -> None:
        # Rounded: shares of a run that add up to 3 may end a rounding below it.
        self._done = round(self._done + runs, 6)
        self._bar.update(self._task, completed=self._done)


_Spec = TypeVar("_Spec", bound=ComparisonSpec)
_VERSIONS = ("nag_optax", "jax", "jaxlib", "optax", "flax")


class Comparison(ABC, Generic[_Spec]):
    """The shared part of comparisons on data and on a problem: search, progress, report."""

    title: str
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
        self,
        spec: _Spec,
        folder: ComparisonFolder,
        device: Device,
        console: Console,
        interrupts: list[int],
    ):
        self.spec, self.folder, self.device = spec, folder, device
        self._console, self.interrupts = console, interrupts

    def carry_out(self) -> dict[str, Any]:
        spec = self.spec
        stored = {name: self.folder.result(name) for name in spec.optimizers} if spec.resume else {}
        self._results = {name: result for name, result in stored.items() if result is not None}
        digests = {name: result.get("data", self.data) for name, result in self._results.items()}
        if other := [name for name, digest in digests.items() if digest != self.data]:
            raise InputError(
                f"{self.source}: has other training data than those of "
                f"{', '.join(other)} in {self.folder.path}"
            )
        if spec.resume:
            self.folder.write_config()
        missing = [name for name in spec.optimizers if name not in self._results]
        if self._results:
            self._say(f"kept in {self.folder.path}: {', '.join(self._results)}")
        if spec.learning_rates != "auto":
            self.grid_size = len(spec.learning_rates)
        with CompareProgress(
            self._console, len(missing) * (self.grid_size * self.runs_a_rate + self.runs_at_best)
        ) as self.progress:
            for position, name in enumerate(missing, 1):
                self.check_interrupts()
                self.progress.describe(f"{name} ({position}/{len(missing)})")
                started = time.perf_counter()
                self._results[name] = plain(self._result(name))
                self.folder.write_result(name, self._results[name])
                self.progress.say(f"{self.line(self._results[name])}  {time.perf_counter() - started:6.1f} s")
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
    def at_best(self, contender: Contender, best: Trial | None) -> dict[str, Any]:
        """Facts of an optimizer beside its trials, once the best of them is known."""

    @abstractmethod
    def measure(self, results: list[dict[str, Any]]) -> None:
        """Adds what is measured for all optimizers together."""

    @abstractmethod
    def line(self, result: dict[str, Any]) -> str:
        """The result of one optimizer, for the progress."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The content of `comparison.json` beside the optimizers."""

    @abstractmethod
    def explanation(self) -> str:
        """How to read the table."""

    @abstractmethod
    def draw(self, results: list[dict[str, Any]], path: Path) -> None:
        """Writes the figure."""

    def _result(self, name: Any) -> dict[str, Any]:
        contender = contender_of(name, self.model)
        planned = self.grid_size

        def run(learning_rates: Sequence[float]) -> list[Trial]:
            nonlocal planned
            planned -= len(learning_rates)
            if planned < 0:
                self.progress.add_runs(-planned * self.runs_a_rate)
                planned = 0
            return self.run(contender, learning_rates)

        found = self._search(contender, run)
        return {
            "name": name,
            "label": contender.row.label,
            "best": found.best,
            "note": found.note,
            **({} if self.data is None else {"data": self.data}),
            **self.at_best(contender, None if found.best is None else found.trials[found.best]),
            "trials": found.trials,
        }

    def _search(self, contender: Contender, run: Callable[[Sequence[float]], list[Trial]]) -> Search:
        if self.spec.learning_rates == "auto":
            return search(run, self.score, self.rung(contender), self.grid_size // 2)
        return search_given(run, self.score, self.spec.learning_rates)

    def _report(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        folder = self.folder
        environment = environment_of(*_VERSIONS)
        environment["machine"]["device"] = (
            self.device.device_kind if self.device.platform != "cpu" else environment["machine"]["device"]
        )
        config = self.spec.to_dict()
        comparison = plain({"config": config, **environment, **self.facts(), "optimizers": results})
        head, body = table.rows(self.target, results)
        folder.write(COMPARISON, to_json(comparison))
        try:
            self.draw(results, folder.path / FIGURE)
        except OSError as error:
            raise InputError(f"{folder.path / FIGURE}: cannot be written ({error})") from None
        folder.write(TABLE, self._markdown(head, body, results, environment))
        self._console.print(table.rich_table(self.title, self.target, results))
        for note in table.notes(results):
            self._say(note)
        self._say(f"saved in {folder.path}: {COMPARISON}, {TABLE}, {FIGURE}")
        return comparison

    def _markdown(
        self, head: list[str], body: list[list[str]], results: list[dict[str, Any]], environment: Any
    ) -> str:
        notes = "".join(f"- {note}\n" for note in table.notes(results))
        return (
            f"# {self.title}\n\n{markdown_table(head, body)}\n"
            f"{textwrap.fill(self.explanation(), 100)}\n\n{notes}{'' if not notes else chr(10)}"
            f"![Curves of every optimizer, and its final value over the learning rate.]({FIGURE})\n\n"
            f"```bash\n{table.command(self.spec.to_dict())}\n```\n\n{headline(environment)}\n"
        )

    def check_interrupts(self) -> None:
        """Ends the comparison, between two chunks of work, if a signal came."""
        if not self.interrupts:
            return
        finished = [name for name in self.spec.optimizers if name in self._results]
        kept = f"finished and kept: {', '.join(finished)}" if finished else "no optimizer was finished"
        raise interrupted(
            self.interrupts,
            f"; {kept}; continue with: "
            f"nag-optax compare --resume --run-dir {shlex.quote(str(self.folder.path))}",
        )

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
