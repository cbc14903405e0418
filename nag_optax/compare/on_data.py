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

from nag_optax.compare.comparison import Comparison
from nag_optax.compare.figures import draw_data
from nag_optax.compare.lanes import Lane, LaneResult, LaneRunner
from nag_optax.compare.report import counted
from nag_optax.compare.search import Contender, Trial, contender_of, decade_rung
from nag_optax.compare.spec import DataSpec
from nag_optax.train.data import Dataset, load_dataset, source_of, statistics_of
from nag_optax.train.data.parts import split_off
from nag_optax.train.progress import say
from nag_optax.train.registry import default_learning_rate
from nag_optax.train.spec import fit_batch

PARTS = 6
"""The search holds out one image of so many."""


def hold_out(dataset: Dataset) -> Dataset:
    """The data of a search: a fixed part of the training images takes the place of the test split.

    `split_off` takes the same part in every search of a dataset.
    """
    train, validation = split_off(dataset.train, len(dataset.train.labels) // PARTS)
    return dataset._replace(train=train, test=validation, **statistics_of(train.images)._asdict())


_TIMING_ROUNDS = 7
_TIMING_SECONDS = 0.1  # of steps in one round of one optimizer


class OnData(Comparison[DataSpec]):
    """Runs every learning rate with every seed. The best has the lowest mean validation loss at the end."""

    grid_size = 5

    def __init__(self, *args: Any):
        super().__init__(*args)
        spec = self.spec
        self.model = spec.train.model_row
        self.seeds = range(spec.seed, spec.seed + spec.seeds)
        self.runs_a_rate = self.runs_at_best = len(self.seeds)
        dataset = load_dataset(spec.train)
        self.data, self.source, self.target = dataset.digest, source_of(spec.train), spec.target
        searched = hold_out(dataset)
        train = fit_batch(spec.train, len(searched.train.labels), partial(say, self.console))
        spec = dataclasses.replace(spec, train=train, batch_size=train.batch_size)
        self.folder.spec = self.spec = spec
        self._searcher = LaneRunner(spec.train, searched, self.device, curves=False)
        self.runner = LaneRunner(spec.train, dataset, self.device)
        self.steps = self.runner.steps
        self.title = (
            f"{spec.dataset}, {spec.model}: {counted(self.runner.num_epochs, 'epoch')}, "
            f"{counted(len(self.seeds), 'seed')}"
        )
        self.facts = {
            "seeds": list(self.seeds),
            "steps_per_epoch": self.runner.steps_per_epoch,
            "steps": self.steps,
        }
        self.explanation = (
            f"The learning rate is the one with the lowest mean loss on a fixed 1/{PARTS} of the training "
            "images, the validation part, when it trains on the others. With that rate it then trains on all "
            "of them. The other columns are means ± standard deviation over the seeds of these runs. "
            "Accuracy and loss are measured after the last step, without dropout. "
            f"The target {spec.target:g} is a test accuracy, measured every {self.steps[0]} steps; "
            "(2/3) says that two seeds of three reach it, and the mean is over these two. Seconds are steps "
            "times the median time of a step of one run by itself, without compilation and evaluation. "
            "In the figure a band reaches from the lowest to the highest of the seeds."
        )

    def run(self, contender: Contender, learning_rates: Sequence[float]) -> list[Trial]:
        lanes = [Lane(rate, seed) for rate in learning_rates for seed in self.seeds]
        results = self._searcher.run(contender, lanes, self._report_runs)
        count = len(self.seeds)
        return [_trial(results[i : i + count]) for i in range(0, len(results), count)]

    def score(self, trial: Trial) -> float | None:
        return None if trial["diverged"] else statistics.fmean(trial["validation_loss"])

    def rung(self, contender: Contender) -> Callable[[int], float]:
        return decade_rung(default_learning_rate(contender.row, None, self.spec.dataset, self.spec.model))

    def at_best(self, contender: Contender, best: Trial | None) -> dict[str, Any]:
        chosen = None
        if best is None:
            self.progress.count_runs(self.runs_at_best)
        else:
            lanes = [Lane(best["learning_rate"], seed) for seed in self.seeds]
            chosen = self._chosen(self.runner.run(contender, lanes, self._report_runs))
        params, _ = self.runner.weights(self.seeds[0])
        return {"state_bytes_per_parameter": contender.state_bytes(params), "chosen": chosen}

    def measure(self, results: list[dict[str, Any]]) -> None:
        """Seconds of a step of one run by itself, in rounds over all optimizers."""
        self.progress.describe("timing single runs")
        longest, timings = self.runner.steps_per_epoch, []
        for result in results:
            self.check_interrupts()
            trials = result["trials"]
            middle = trials[len(trials) // 2 if result["best"] is None else result["best"]]
            lane = Lane(middle["learning_rate"], self.seeds[0])
            stopwatch = self.runner.stopwatch(contender_of(result["name"], self.model), lane)
            count = min(longest, max(1, int(_TIMING_SECONDS / stopwatch(min(5, longest)))))
            timings.append((stopwatch, count, []))
        for _ in range(_TIMING_ROUNDS):
            for stopwatch, count, seconds in timings:
                self.check_interrupts()
                seconds.append(stopwatch(count))
        for result, (_, _, seconds) in zip(results, timings, strict=True):
            result["seconds_per_step"] = statistics.median(seconds)

    def ending(self, result: dict[str, Any]) -> str:
        best, chosen = result["trials"][result["best"]], result["chosen"]
        return (
            f"learning rate {best['learning_rate']:<7g} "
            f"validation loss {statistics.fmean(best['validation_loss']):.1e}  "
            f"test {statistics.fmean(chosen['test_accuracy']):7.2%}"
        )

    def draw(self, results: list[dict[str, Any]], path: Path) -> None:
        draw_data(results, self.steps, self.runner.steps_per_epoch, self.title, path)

    def _report_runs(self, runs: float) -> None:
        self.progress.count_runs(runs)
        self.check_interrupts()

    def _chosen(self, results: list[LaneResult]) -> dict[str, Any]:
        ends = [r.final_train for r in results if r.final_train is not None]
        return {
            "diverged": any(r.diverged for r in results),
            "train_loss": [end.loss for end in ends],
            "train_accuracy": [end.accuracy for end in ends],
            "test_loss": [float(r.test_loss[-1]) for r in results],
            "test_accuracy": [float(r.test_accuracy[-1]) for r in results],
            "steps_to_target": [
                first_reaching(self.steps, r.test_accuracy, self.spec.target) for r in results
            ],
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


def first_reaching(steps: np.ndarray, accuracy: np.ndarray, target: float) -> int | None:
    """The step of the first evaluation at or above the target."""
    reached = np.flatnonzero(accuracy >= target)
    return int(steps[reached[0]]) if len(reached) else None
