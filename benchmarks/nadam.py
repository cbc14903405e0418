"""Which variant of NAdamW is best, each at the learning rate that a validation part chooses.

    python -m benchmarks.nadam --tasks digits-cnn language --json benchmarks/results/nadam.json

Every contender trains from the same seeds on the same batches. Its learning rates are doubled and halved
until the lowest mean loss lies between two higher ones. No test split is read. Results of other tasks in the
file are kept.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.options import Parser, writable_file

Make = Callable[[Any], Any]
"""An optimizer from its learning rate's schedule."""
Run = Callable[[float], Iterable[float]]
"""The validation loss of each seed at a learning rate."""

BASELINE = "optax.adamw"
COLUMNS = (
    "task",
    "optimizer",
    "learning rate",
    "validation loss",
    "less than AdamW's by",
    "mean loss at each learning rate",
)
LEGEND = [
    "learning rate: the rate with the lowest mean loss over the seeds on data held out from training.",
    "Losses, and differences between runs of the same seed: mean ± standard deviation over the seeds.",
    'All have weight decay 1e-4, except laprop, which has none. nadamw(variant="optax") is optax.nadamw.',
    "The default variant of nadam and nadamw has the lowest geometric mean of the losses over the tasks.",
    "characters: a transformer of two layers and 115,136 parameters learns the sources of the "
    "standard library of this Python.",
]


class Task(NamedTuple):
    """What is trained.

    Attributes:
        title: in the table.
        centre: of the learning rates of Adam's relatives; laprop's are a tenth of theirs.
        seeds: runs at each learning rate.
        prepare: loads the data once; gives the runs of an optimizer.
    """

    title: str
    centre: float
    seeds: int
    prepare: Callable[["Task", Path | None], Callable[[str, Make], Run]]


def language(task: Task, data_dir: Path | None) -> Callable[[str, Make], Run]:
    from benchmarks import language

    del data_dir
    text = language.standard_library()

    def runs(name: str, make: Make) -> Run:
        train = language.trainer(make, text, range(task.seeds), LANGUAGE_STEPS)
        return lambda rate: train(rate).validation[:, -1]

    return runs


def images(dataset: str, model: str, num_epochs: int) -> Callable[..., Callable[[str, Make], Run]]:
    """The trainer's model and defaults, a fixed sixth of the training images held out."""

    def prepare(task: Task, data_dir: Path | None) -> Callable[[str, Make], Run]:
        from nag_optax.compare.images import hold_out
        from nag_optax.compare.lanes import Lane, LaneRunner
        from nag_optax.train.data import load_dataset
        from nag_optax.train.options import Options
        from nag_optax.train.parallel import find_devices
        from nag_optax.train.rows import Optimizer
        from nag_optax.train.spec import resolve

        options: Any = {"dataset": dataset, "model": model, "num_epochs": num_epochs, "data_dir": data_dir}
        spec = resolve(Options(**options))
        device = find_devices(spec.device, 1)[0]
        runner = LaneRunner(spec, hold_out(load_dataset(spec)), device, curves=False)

        def runs(name: str, make: Make) -> Run:
            contender = Optimizer(make, name)

            def run(rate: float) -> list[float]:
                lanes = [Lane(rate, seed) for seed in range(task.seeds)]
                return [
                    float(result.test_loss[-1]) for result in runner.run(contender, lanes, lambda _: None)
                ]

            return run

        return runs

    return prepare


LANGUAGE_STEPS, DIGITS_EPOCHS, MNIST_EPOCHS = 400, 12, 2
TASKS = {
    "language": Task(f"characters, {LANGUAGE_STEPS} steps", 4e-3, 3, language),
    "digits-cnn": Task(
        f"digits, cnn, {DIGITS_EPOCHS} epochs", 1e-2, 6, images("digits", "cnn", DIGITS_EPOCHS)
    ),
    "mnist-mlp": Task(f"mnist, mlp, {MNIST_EPOCHS} epochs", 2e-3, 3, images("mnist", "mlp", MNIST_EPOCHS)),
}


def contenders() -> dict[str, tuple[Make, float]]:
    """How each is made, and its learning rate beside Adam's."""
    from functools import partial
    from typing import get_args

    import optax

    import nag_optax
    from nag_optax.optimizers.nadam import Variant

    variants = {
        f'nadamw(variant="{v}")': (partial(nag_optax.nadamw, variant=v), 1.0) for v in get_args(Variant)
    }
    return {BASELINE: (optax.adamw, 1.0), **variants, "laprop": (nag_optax.laprop, 0.1)}


def searched(run: Run, centre: float) -> dict[str, Any]:
    """Trials by rising learning rate, and the position of the best."""
    import math

    from nag_optax.compare.search import doubling_rung, search

    def trials(rates: Sequence[float]) -> list[dict[str, Any]]:
        return [{"learning_rate": rate, "validation_loss": [float(x) for x in run(rate)]} for rate in rates]

    def score(trial: dict[str, Any]) -> float | None:
        mean = statistics.fmean(trial["validation_loss"])
        return mean if math.isfinite(mean) else None

    return search(trials, score, doubling_rung(centre), width=1)._asdict()


def rows(task: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row for each contender of a task."""
    base = _best(task["optimizers"][BASELINE])["validation_loss"]
    table = []
    for label, result in task["optimizers"].items():
        best = _best(result)
        losses = best["validation_loss"]
        gain = [b - x for b, x in zip(base, losses, strict=True)]
        tried = ", ".join(
            f"{t['learning_rate']:g}: {statistics.fmean(t['validation_loss']):.4g}" for t in result["trials"]
        )
        less = "" if label == BASELINE else f"{statistics.fmean(gain):.2g} ± {statistics.stdev(gain):.1g}"
        shown = f"{statistics.fmean(losses):.4g} ± {statistics.stdev(losses):.1g}"
        first = task["title"] if not table else ""
        table.append((first, f"`{label}`", f"{best['learning_rate']:g}", shown, less, tried))
    return table


def _best(result: dict[str, Any]) -> dict[str, Any]:
    return result["trials"][result["best"]]


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.nadam",
        description="Searches the learning rate of each variant of nadamw, of AdamW and of laprop.",
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="IDX files, for mnist-mlp")
    parser.add_argument("--json", type=writable_file, metavar="FILE", required=True, help="where to write it")
    options = parser.parse_args(args)
    if "mnist-mlp" in options.tasks and options.data_dir is None:
        parser.error("--tasks mnist-mlp: needs --data-dir")
    return options


def main(args: list[str] | None = None) -> None:
    from benchmarks import report

    options = parse(args)
    tasks = json.loads(options.json.read_text())["tasks"] if options.json.exists() else {}
    for name in options.tasks:
        task = TASKS[name]
        runs = task.prepare(task, options.data_dir if name == "mnist-mlp" else None)
        found = {}
        with report.progress(task.title, len(contenders())) as advance:
            for label, (make, factor) in contenders().items():
                found[label] = searched(runs(label, make), factor * task.centre)
                advance()
        tasks[name] = {"title": f"{task.title}, {task.seeds} seeds", "optimizers": found}
        ordered = {name: tasks[name] for name in TASKS if name in tasks}
        report.write_json(options.json, report.environment() | {"tasks": ordered})
        report.show(task.title, COLUMNS, [rows(tasks[name])])


if __name__ == "__main__":
    main()
