"""What exactness under schedules, a momentum schedule and the iterate are worth on images.

    python -m benchmarks.schedules --json benchmarks/results/schedules.json

Two optimizers train from the same seeds on the same batches at one learning rate, which a held-out sixth of
the training images chose for the first. The table shows how much lower the test loss of the first is.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.options import Parser, positive

SEEDS = 10
MOMENTA = (0.9, 0.97)
COLUMNS = (
    "first",
    "second",
    "decay",
    "momentum",
    "learning rate",
    "test loss of the first",
    "first is lower by, at the end",
    "first is lower by, mean of all epochs",
)
LEGEND = [
    f"Means ± standard deviations over {SEEDS} seeds. Differences are between runs of the same seed.",
    "nag at p: `optax.trace(nesterov=True)` after the learning rate. Its parameters are those of nag, and "
    "they are evaluated where the gradient is taken, not at the iterate.",
    "optax.sgd: its momentum comes before the learning rate.",
    "sutskever: `nag` with a momentum that rises every 250 steps, up to the momentum of the row.",
]
Make = Callable[[Any], Any]


class Pair(NamedTuple):
    """Two optimizers, each from the learning rate's schedule."""

    first: str
    second: str
    decay: str
    momentum: float


PAIRS = [
    *(Pair("nag at p", "optax.sgd", "cosine", m) for m in MOMENTA),
    *(Pair("nag", "nag at p", decay, m) for decay in ("constant", "cosine") for m in MOMENTA),
    *(Pair("nag", "sutskever", "cosine", m) for m in MOMENTA),
]


def optimizers(momentum: float) -> dict[str, Make]:
    import optax

    import nag_optax

    return {
        "nag": lambda rate: nag_optax.nag(rate, momentum),
        "nag at p": lambda rate: optax.chain(
            optax.scale_by_learning_rate(rate), optax.trace(momentum, nesterov=True)
        ),
        "optax.sgd": lambda rate: optax.sgd(rate, momentum, nesterov=True),
        "sutskever": lambda rate: nag_optax.nag(rate, nag_optax.momentum.sutskever(momentum)),
    }


def measure(options: argparse.Namespace, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """Test losses of each pair, (seeds, epochs)."""
    from benchmarks.nadam import searched
    from nag_optax.compare.images import hold_out
    from nag_optax.compare.lanes import Lane, LaneRunner
    from nag_optax.train.data import load_dataset
    from nag_optax.train.options import Options
    from nag_optax.train.parallel import find_devices
    from nag_optax.train.rows import Optimizer
    from nag_optax.train.spec import resolve

    found = []
    chosen = Options(
        dataset=options.dataset,
        data_dir=options.data_dir,
        model=options.model,
        num_epochs=options.num_epochs,
    )
    dataset = load_dataset(resolve(chosen))
    device = find_devices("auto", 1)[0]
    for decay in ("constant", "cosine"):
        spec = resolve(dataclasses.replace(chosen, schedule=decay))
        search = LaneRunner(spec, hold_out(dataset), device, curves=False)
        runner = LaneRunner(spec, dataset, device)
        # A runner may look several times an epoch.
        ends = np.isin(runner.steps, runner.steps_per_epoch * np.arange(1, runner.num_epochs + 1))

        def runs(runner: LaneRunner, label: str, make: Make, rate: float) -> Sequence[Any]:
            lanes = [Lane(rate, seed) for seed in range(SEEDS)]
            return runner.run(Optimizer(make, label), lanes, lambda share: None)

        for pair in (pair for pair in PAIRS if pair.decay == decay):
            made = optimizers(pair.momentum)
            label = f"{{}}, {pair.momentum}".format
            result = searched(
                lambda rate, pair=pair, made=made, label=label, search=search, runs=runs: [
                    float(run.test_loss[-1])
                    for run in runs(search, label(pair.first), made[pair.first], rate)
                ],
                spec.learning_rate * (1 - pair.momentum) / 0.1,
            )
            rate = result["trials"][result["best"]]["learning_rate"]
            losses = {
                which: [run.test_loss[ends].tolist() for run in runs(runner, label(name), made[name], rate)]
                for which, name in (("first", pair.first), ("second", pair.second))
            }
            found.append({"pair": pair._asdict(), "learning_rate": rate, "losses": losses})
            advance()
    return sorted(found, key=lambda entry: PAIRS.index(Pair(**entry["pair"])))


def rows(entries: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One for each pair."""
    table = []
    for entry in entries:
        pair = Pair(**entry["pair"])
        first, second = entry["losses"]["first"], entry["losses"]["second"]
        gains = [np.subtract(b, a) for a, b in zip(first, second, strict=True)]
        shown = [run[-1] for run in first], [gain[-1] for gain in gains], [gain.mean() for gain in gains]
        cells = (f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" for values in shown)
        numbers = (f"{pair.momentum:g}", f"{entry['learning_rate']:.3g}")
        table.append((f"{pair.first}", f"{pair.second}", pair.decay, *numbers, *cells))
    return table


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.schedules",
        description="Measures what exactness, a momentum schedule and the iterate are worth on images.",
    )
    parser.add_argument("--dataset", default="digits", metavar="NAME", help="as in nag-optax train")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="as in nag-optax train")
    parser.add_argument("--model", default="mlp", metavar="NAME", help="as in nag-optax train")
    parser.add_argument("--num-epochs", type=positive, metavar="N", help="by default the trainer's")
    parser.add_json()
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> None:
    from benchmarks import report
    from nag_optax.train.errors import InputError

    options = parse(args)
    with report.progress(f"{options.dataset} {options.model}", len(PAIRS)) as advance:
        try:
            entries = measure(options, advance)
        except InputError as error:
            raise SystemExit(f"benchmarks.schedules: {error}") from None
    result = report.environment() | {
        "dataset": options.dataset,
        "model": options.model,
        "epochs": len(entries[0]["losses"]["first"][0]),
        "pairs": entries,
    }
    report.show(f"{options.dataset} {options.model}: {report.headline(result)}", COLUMNS, [rows(entries)])
    if options.json:
        report.write_json(options.json, result)


if __name__ == "__main__":
    main()
