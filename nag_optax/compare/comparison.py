"""A comparison: it keeps each optimizer's result in its folder, and reports."""

import shlex
import textwrap
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console

from nag_optax.compare import report
from nag_optax.compare.report import markdown_table, plain, to_json
from nag_optax.compare.spec import COMPARISON, FIGURE, RESULTS, TABLE, ComparisonFolder, contender
from nag_optax.train.environment import environment_of, headline
from nag_optax.train.errors import InputError, interrupted
from nag_optax.train.parallel import Device
from nag_optax.train.progress import LiveBar, say

if TYPE_CHECKING:
    from nag_optax.compare.images import Images
    from nag_optax.compare.problems import Descents

_VERSIONS = ("nag_optax", "jax", "jaxlib", "optax", "flax")


def _file_of(name: str) -> str:
    """The file of an optimizer's result. On Windows no name has the colon of a user's own."""
    return f"{RESULTS}/{name.replace(':', '.')}.json"


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
                started, row = time.perf_counter(), contender(name)
                about = {"name": name, "label": row.label, "data": subject.data}
                result = results[name] = plain(about | subject.result(row, self.advance))
                self.folder.write(_file_of(name), to_json(result))
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
        stored = {name: folder.read(_file_of(name)) for name in subject.spec.optimizers}
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
