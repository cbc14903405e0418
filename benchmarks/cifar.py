"""Which optimizer learns CIFAR-10's pictures best, each at the learning rate of its own search.

    python -m benchmarks.cifar --data-dir DIR --json benchmarks/results/cifar-cnn.json

DIR holds train/CLASS and test/CLASS. A fixed sixth of the training pictures chooses the learning rate, which
is doubled and halved until the lowest loss lies between two higher ones. Then each optimizer trains on all of
them from new seeds, and the iterate x and the parameters p are examined after every epoch. Results in the
file are kept, so that a run that was interrupted goes on where it ended.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.options import Parser, positive, writable_file

EPOCHS, BATCH_SIZE, SIZE, TRAIN, TEST, SEEDS, REPEATS = 8, 64, 16, 6000, 2000, 3, 15
DECAYS = ("cosine", "constant")
BASELINE = "optax.sgd"
COLUMNS = (
    "decay",
    "optimizer",
    "learning rate",
    "test loss",
    f"less than {BASELINE}'s by",
    "test accuracy, %",
    f"epochs to {BASELINE}'s loss",
    "ms a step",
)
LEGEND = [
    "Test loss and accuracy are taken at the iterate that `eval_params` gives, after the last epoch: mean ± "
    f"standard deviation over {SEEDS} seeds that the search did not use.",
    f"less than {BASELINE}'s by: differences between runs of the same seed.",
    f"epochs to {BASELINE}'s loss: the first epoch whose mean test loss is at most the one that {BASELINE} "
    "ends with under the same decay.",
    "ms a step: the whole training step; medians in turns.",
    "Loss at p and at x: the difference is the mean over the seeds, for optimizers whose p and x differ.",
    "The learning rate rises over the first epoch. Then it stays constant, or a cosine takes it to 0.",
]

Make = Callable[[Any], Any]
"""An optimizer from its learning rate's schedule."""


class Contender(NamedTuple):
    """An optimizer, and the centre of the search for its learning rate."""

    make: Make
    centre: float


def contenders(model: str) -> dict[str, Contender]:
    import optax

    from nag_optax.train.optimizers import core
    from nag_optax.train.registry import MODELS, OPTIMIZERS

    def of_trainer(name: str) -> Make:
        return lambda rate: core(OPTIMIZERS[name], rate, model=MODELS[model])

    sgd = 0.2 if model == "resnet18" else 0.0125
    return {
        BASELINE: Contender(lambda rate: optax.sgd(rate, 0.9, nesterov=True), sgd),
        "nag": Contender(of_trainer("nag"), sgd),
        "heavy ball": Contender(of_trainer("momentum"), sgd),
        "adamw": Contender(of_trainer("adamw"), 1e-3),
        "laprop": Contender(of_trainer("laprop"), 2.5e-4),
        "muon": Contender(of_trainer("muon"), 2e-3),
    }


def measured(spec: Any, dataset: Any, contender: Contender) -> dict[str, Any]:
    """The search, and loss and accuracy of new seeds at x and at p after every epoch."""
    from benchmarks.nadam import searched
    from benchmarks.pictures import Runs
    from nag_optax import eval_params
    from nag_optax.compare.images import hold_out

    search = Runs(spec, hold_out(dataset), contender.make)

    def validation(rate: float) -> list[float]:
        *_, state = search.states(rate, SEEDS, spec.num_epochs)
        return [search.metrics(state, eval_params(state.opt_state, state.params)).loss]

    result = searched(validation, contender.centre)
    rate = result["trials"][result["best"]]["learning_rate"]
    runs = Runs(spec, dataset, contender.make)
    curves: dict[str, list[list[Any]]] = {"x": [], "p": []}
    for seed in range(SEEDS):
        at: dict[str, list[Any]] = {"x": [], "p": []}
        for state in runs.states(rate, seed, spec.num_epochs):
            x = eval_params(state.opt_state, state.params)
            at["x"].append(runs.metrics(state, x))
            at["p"].append(at["x"][-1] if x is state.params else runs.metrics(state, state.params))
        for name, metrics in at.items():
            curves[name].append(metrics)
    return result | {
        name: {what: [[getattr(m, what) for m in run] for run in found] for what in ("loss", "accuracy")}
        for name, found in curves.items()
    }


def milliseconds(spec: Any, dataset: Any, repeats: int) -> dict[str, float]:
    """Of a training step with each optimizer."""
    import jax

    from benchmarks import timing
    from benchmarks.pictures import Runs

    def repeated(make: Make) -> timing.Repeated:
        runs = Runs(spec, dataset, make)
        state, rows = runs.begin(1e-3, 0), np.arange(spec.batch_size)

        def run(count: int) -> None:
            nonlocal state
            for _ in range(count):
                state = runs.after(state, 1e-3, 0, rows)
            jax.block_until_ready(state)

        return run

    made = {name: repeated(contender.make) for name, contender in contenders(spec.model).items()}
    timings = timing.interleaved_medians(made, repeats)
    return {name: 1e3 * timed.median for name, timed in timings.items()}


def rows(result: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """Groups by decay, the lowest test loss first."""
    groups = []
    for decay, found in result["optimizers"].items():
        base = found[BASELINE]["x"]["loss"]
        table = []
        for name, entry in found.items():
            losses = [run[-1] for run in entry["x"]["loss"]]
            gains = [theirs[-1] - loss for theirs, loss in zip(base, losses, strict=True)]
            mean = means(entry["x"]["loss"])
            reached = [epoch for epoch, loss in enumerate(mean, 1) if loss <= means(base)[-1]]
            row = (
                decay,
                f"`{name}`",
                f"{entry['trials'][entry['best']]['learning_rate']:g}",
                _spread(losses, 3),
                "" if name == BASELINE else _spread(gains, 3),
                _spread([100 * run[-1] for run in entry["x"]["accuracy"]], 1),
                str(reached[0]) if reached else "not reached",
                f"{result['milliseconds'][name]:.1f}" if name in result["milliseconds"] else "",
            )
            table.append((mean[-1], row))
        groups.append([row for _, row in sorted(table)])
    return groups


def iterate_columns(result: dict[str, Any]) -> tuple[str, ...]:
    return ("decay", "optimizer", *(f"epoch {epoch}" for epoch in range(1, result["epochs"] + 1)))


def iterate_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """The loss at p less the one at x, epoch by epoch."""
    return [
        (decay, f"`{name}`", *(f"{p - x:+.3f}" for p, x in zip(*at, strict=True)))
        for decay, found in result["optimizers"].items()
        for name, entry in found.items()
        if entry["p"] != entry["x"]
        for at in [[means(entry[which]["loss"]) for which in ("p", "x")]]
    ]


def draw(result: dict[str, Any], path: Path) -> None:
    """The test loss over the epochs, at x and, where it is another one, at p."""
    from matplotlib import pyplot

    from nag_optax.plot.style import bare, colors_of, save

    groups = result["optimizers"]
    size = (4.2 * len(groups), 3.8)
    figure, axes = pyplot.subplots(
        1, len(groups), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    epochs = range(1, result["epochs"] + 1)
    for panel, (decay, found) in zip(axes[0], groups.items(), strict=True):
        for name, color in colors_of(found).items():
            x, p = (means(found[name][which]["loss"]) for which in ("x", "p"))
            panel.plot(epochs, x, color=color, lw=1.7, label=f"{name}, {x[-1]:.2f} at the end")
            if p != x:
                panel.plot(epochs, p, ":", color=color, lw=1.7)
        panel.set(xlabel="epoch", title=f"{decay} learning rate")
        bare(panel)
        panel.legend(frameon=False, fontsize="small")
    axes[0, 0].set_ylabel("test loss")
    save(figure, path, dpi=200)
    pyplot.close(figure)


def facts(result: dict[str, Any]) -> str:
    """What was trained on what, in a sentence."""
    return (
        f"The trainer's {result['model']} learns {result['train']:,} of the folder's {result['available']:,} "
        f"training pictures, reduced to {SIZE} × {SIZE} pixels, in {result['epochs']} epochs of batches of "
        f"{BATCH_SIZE}. It is tested on {result['test']:,} others."
    )


def means(curves: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(values) for values in zip(*curves, strict=True)]


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.cifar",
        description="Trains a model on small pictures with each optimizer at its best learning rate.",
    )
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="holds train and test")
    parser.add_argument("--model", choices=("cnn", "resnet18", "mlp"), default="cnn", help="default: cnn")
    for name, default in (("num-epochs", EPOCHS), ("train", TRAIN), ("test", TEST), ("repeats", REPEATS)):
        about = {"train": "training pictures", "test": "test pictures", "repeats": "samples of a step's time"}
        text = f"{about.get(name, 'of each run')} (default: {default})"
        parser.add_argument(f"--{name}", type=positive, default=default, metavar="N", help=text)
    parser.add_argument("--decay", choices=DECAYS, help="of the learning rate; by default both, in turn")
    parser.add_argument("--json", type=writable_file, required=True, metavar="FILE", help="where to write it")
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> None:
    from benchmarks import pictures, report
    from nag_optax.train.errors import InputError
    from nag_optax.train.options import Options
    from nag_optax.train.spec import resolve

    options = parse(args)
    base = Options(
        dataset="folder",
        data_dir=options.data_dir,
        model=options.model,
        image_size=SIZE,
        num_epochs=options.num_epochs,
        batch_size=BATCH_SIZE,
        resident="yes",
    )
    decays = [options.decay] if options.decay else DECAYS
    try:
        specs = {decay: resolve(dataclasses.replace(base, schedule=decay)) for decay in decays}
        dataset, available = pictures.chosen(specs[decays[0]], options.train, options.test)
    except InputError as error:
        raise SystemExit(f"benchmarks.cifar: {error}") from None
    found = json.loads(options.json.read_text())["optimizers"] if options.json.exists() else {}
    made = contenders(options.model)
    missing = [(decay, name) for decay in decays for name in made if name not in found.get(decay, {})]

    def keep(times: dict[str, float]) -> dict[str, Any]:
        ordered = {
            decay: {name: found[decay][name] for name in made if name in found[decay]}
            for decay in DECAYS
            if decay in found
        }
        run = {"model": options.model, "epochs": options.num_epochs, "repeats": options.repeats}
        sizes = {"train": len(dataset.train.labels), "test": len(dataset.test.labels)}
        sizes["available"] = available
        result = report.environment() | run | sizes | {"optimizers": ordered, "milliseconds": times}
        report.write_json(options.json, result)
        return result

    with report.progress("optimizers", len(missing)) as advance:
        for decay, name in missing:
            entry = measured(specs[decay], dataset, made[name])
            found.setdefault(decay, {})[name] = entry
            keep({})
            losses = [run[-1] for run in entry["x"]["loss"]]
            report.note(f"{decay}, {name}: {_spread(losses, 3)}")
            advance()
    result = keep(milliseconds(specs[decays[0]], dataset, options.repeats))
    draw(result, options.json.with_suffix(".png"))
    report.show(f"{options.model}: {report.headline(result)}", COLUMNS, rows(result))


if __name__ == "__main__":
    main()
