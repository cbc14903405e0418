"""The comparison on images: the same models, batches and dropout for every optimizer.

A part of the training images, held out from the search, chooses the learning rate of each optimizer. With
that rate it trains on all of them, and those runs alone see the test split.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from nag_optax.compare.figures import draw_data
from nag_optax.compare.lanes import Lane, LaneResult, LaneRunner
from nag_optax.compare.report import counted
from nag_optax.compare.search import Trial, decade_rung, search
from nag_optax.compare.spec import DataSpec, contender
from nag_optax.train.data import Dataset, load_dataset, source_of, statistics_of
from nag_optax.train.data.parts import split_off
from nag_optax.train.parallel import Device
from nag_optax.train.progress import say
from nag_optax.train.registry import default_learning_rate
from nag_optax.train.rows import Optimizer
from nag_optax.train.spec import fit_batch

PARTS = 6
"""The search holds out one image of so many."""
_WIDTH = 2  # rungs of the grid on each side of its centre, to begin with
_TIMING_ROUNDS = 7
_TIMING_SECONDS = 0.1  # of steps in one round of one optimizer


def hold_out(dataset: Dataset) -> Dataset:
    """The data of a search: a fixed part of the training images takes the place of the test split.

    `split_off` takes the same part in every search of a dataset.
    """
    train, validation = split_off(dataset.train, len(dataset.train.labels) // PARTS)
    return dataset._replace(train=train, test=validation, statistics=statistics_of(train.images))


class Images:
    """Runs every learning rate with every seed. The best has the lowest mean validation loss at the end."""

    def __init__(self, spec: DataSpec, device: Device, console: Console):
        dataset = load_dataset(spec.train)
        searched = hold_out(dataset)
        train = fit_batch(spec.train, len(searched.train.labels), partial(say, console))
        self.spec = dataclasses.replace(spec, train=train, batch_size=train.batch_size)
        self.data, self.source = dataset.digest, source_of(train)
        self._searcher = LaneRunner(train, searched, device, curves=False)
        self._runner = LaneRunner(train, dataset, device)
        self._seeds = range(spec.seed, spec.seed + spec.seeds)
        self._steps = self._runner.steps
        epochs, seeds = counted(train.num_epochs, "epoch"), counted(spec.seeds, "seed")
        self.title = f"{train.dataset}, {train.model}: {epochs}, {seeds}"
        self.facts = {
            "seeds": list(self._seeds),
            "steps_per_epoch": self._runner.steps_per_epoch,
            "steps": self._steps,
        }
        self.explanation = (
            f"The learning rate is the one with the lowest mean loss on a fixed 1/{PARTS} of the training "
            "images, the validation part, when it trains on the others. With that rate it then trains on all "
            "of them. The other columns are means ± standard deviation over the seeds of these runs. "
            "Accuracy and loss are measured after the last step, without dropout. "
            f"The target {spec.target:g} is a test accuracy, measured every {self._steps[0]} steps; "
            "(2/3) says that two seeds of three reach it, and the mean is over these two. Seconds are steps "
            "times the median time of a step of one run by itself, without compilation and evaluation. "
            "In the figure a band reaches from the lowest to the highest of the seeds."
        )

    def check(self, row: Optimizer) -> None:
        self._runner.check(row)

    def result(self, row: Optimizer, advance: Callable[[float], None]) -> dict[str, Any]:
        """A `Search`, and more about its best. `advance` hears of shares of the work, and may raise."""
        rates, seeds = self.spec.learning_rates, self._seeds
        planned = len(seeds) * (1 + (2 * _WIDTH + 1 if rates == "auto" else len(rates)))

        def trained(runner: LaneRunner, rates: Sequence[float]) -> list[LaneResult]:
            lanes = [Lane(rate, seed) for rate in rates for seed in seeds]
            return runner.run(row, lanes, lambda share: advance(share / planned))

        def trials(rates: Sequence[float]) -> list[Trial]:
            results = trained(self._searcher, rates)
            return [_trial(results[i : i + len(seeds)]) for i in range(0, len(results), len(seeds))]

        centre = default_learning_rate(row, None, self.spec.train.dataset, self.spec.train.model)
        found = search(trials, score, decade_rung(centre), _WIDTH, rates)
        chosen = None
        if found.best is not None:
            chosen = self._chosen(trained(self._runner, [found.trials[found.best]["learning_rate"]]))
        size = self._runner.state_bytes(row)
        return {**found._asdict(), "state_bytes_per_parameter": size, "chosen": chosen}

    def measure(self, results: list[dict[str, Any]], look: Callable[[], None]) -> None:
        """Seconds of a step of one run by itself, in rounds over all optimizers."""
        timings = []
        for result in results:
            look()
            row = contender(result["name"])
            stopwatch = self._runner.stopwatch(row, Lane(row.learning_rate, self._seeds[0]))
            timings.append((stopwatch, max(1, int(_TIMING_SECONDS / stopwatch(5))), []))
        for _ in range(_TIMING_ROUNDS):
            for stopwatch, count, seconds in timings:
                look()
                seconds.append(stopwatch(count))
        for result, (_, _, seconds) in zip(results, timings, strict=True):
            result["seconds_per_step"] = statistics.median(seconds)

    def ending(self, result: dict[str, Any]) -> str:
        """The result of an optimizer that did not diverge, for the progress."""
        best, chosen = result["trials"][result["best"]], result["chosen"]
        return (
            f"learning rate {best['learning_rate']:<7g} "
            f"validation loss {statistics.fmean(best['validation_loss']):.1e}  "
            f"test {statistics.fmean(chosen['test_accuracy']):7.2%}"
        )

    def draw(self, results: list[dict[str, Any]], path: Path) -> None:
        draw_data(results, self._steps, self._runner.steps_per_epoch, self.title, path)

    def _chosen(self, results: list[LaneResult]) -> dict[str, Any]:
        ends = [r.final_train for r in results if r.final_train is not None]
        target = self.spec.target
        return {
            "diverged": any(r.diverged for r in results),
            "train_loss": [end.loss for end in ends],
            "train_accuracy": [end.accuracy for end in ends],
            "test_loss": [r.test_loss[-1] for r in results],
            "test_accuracy": [r.test_accuracy[-1] for r in results],
            "steps_to_target": [first_reaching(self._steps, r.test_accuracy, target) for r in results],
            "curves": {
                name: np.stack([getattr(r, name) for r in results])
                for name in ("loss", "test_loss", "test_accuracy")
            },
        }


def _trial(results: list[LaneResult]) -> Trial:
    """The trial of one learning rate in the search, whose test split is the held-out part."""
    return {
        "learning_rate": results[0].lane.learning_rate,
        "diverged": any(r.diverged for r in results),
        "validation_loss": [float(r.test_loss[-1]) for r in results],
        "validation_accuracy": [float(r.test_accuracy[-1]) for r in results],
    }


def score(trial: Trial) -> float | None:
    """The mean validation loss; None if a seed diverged."""
    return None if trial["diverged"] else statistics.fmean(trial["validation_loss"])


def first_reaching(steps: np.ndarray, accuracy: np.ndarray, target: float) -> int | None:
    """The step of the first evaluation at or above the target."""
    reached = np.flatnonzero(accuracy >= target)
    return int(steps[reached[0]]) if len(reached) else None
