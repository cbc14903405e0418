"""Weighs the state of an optimizer in one byte a number against float32: bytes, time, loss.

    python -m benchmarks.memory --data-dir DIR --json memory.json

A step is the update and its application to the parameters; the gradients are given. The losses are those of
`nag-optax train` with its default learning rates.
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks.options import Parser, positive
from benchmarks.trees import MATRICES, Shapes, num_parameters
from benchmarks.trees import TREES as STEP_TREES

OPTIMIZERS = ("nag", "adamw", "adan", "muon")
WIDE, NARROW = STATES = ("float32", "one byte")
TASKS: tuple[tuple[Any, Any], ...] = (("digits", "cnn"), ("mnist", "mlp"))
TREES = {**STEP_TREES, "four-blocks": MATRICES["small"]}
DEFAULT_TREES = ["four-blocks"]
COLUMNS = (
    "tree",
    "optimizer",
    "state",
    "bytes a parameter",
    "bytes a number",
    "moved",
    "temporary",
    "kernels",
    "ms a step",
    "quartiles",
    "this / float32",
)
LOSS_COLUMNS = (
    "task",
    "optimizer",
    "learning rate",
    "loss, float32",
    "loss, one byte",
    "difference / spread",
)

LEGEND = """\
bytes a parameter: the state of one parameter takes so many bytes.
bytes a number: a number of the state that takes four bytes in float32 takes so many here.
moved: bytes a parameter that the compiled step reads and writes, by XLA's cost analysis. temporary: bytes a \
parameter that a call allocates beside its arguments. kernels: operations that a call starts.
ms a step: median and quartiles over the rounds of one run in which both states take turns.
loss: on all training images after the last step, without dropout; mean ± standard deviation over the seeds.
difference / spread: how much the mean loss in one byte is higher, in standard deviations of float32's.
"""


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.memory",
        description="Bytes, step time and final loss of nag_optax.low_memory around nag, adamw, adan and "
        "muon, beside the same in float32.",
        legend=LEGEND,
    )
    parser.add_argument(
        "--only",
        choices=("steps", "losses"),
        metavar="PART",
        help="steps (bytes and times) or losses; the other part of the file is kept",
    )
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=OPTIMIZERS,
        default=list(OPTIMIZERS),
        metavar="NAME",
        help=f"some of {', '.join(OPTIMIZERS)}",
    )
    parser.add_argument(
        "--trees",
        nargs="+",
        choices=list(TREES),
        default=DEFAULT_TREES,
        metavar="TREE",
        help=f"parameter trees to time: {', '.join(TREES)} (default: {' '.join(DEFAULT_TREES)})",
    )
    parser.add_argument(
        "--repeats",
        type=positive,
        default=15,
        metavar="N",
        help="rounds; in each, both states have one sample of 20 ms or more (default: 15)",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="MNIST's IDX files; without them, digits' cnn alone is trained",
    )
    parser.add_argument(
        "--num-epochs", type=positive, metavar="N", help="by default those of the trainer's table"
    )
    parser.add_argument("--seeds", type=positive, default=5, metavar="N", help="runs of each (default: 5)")
    parser.add_json()
    return parser.parse_args(args)


def measure(name: str, shapes: Shapes, optimizers: list[str], rounds: int) -> dict[str, Any]:
    """One tree: what its JSON entry says."""
    import optax

    import nag_optax
    from benchmarks import contenders, report, timing

    makers = {"nag": nag_optax.nag, "adamw": optax.adamw, "adan": nag_optax.adan, "muon": nag_optax.muon}
    parameters = num_parameters(shapes)
    entry: dict[str, Any] = {
        "tree": name,
        "parameters": parameters,
        "leaves": len(shapes),
        "optimizers": {},
    }
    grads = contenders.gradients(shapes)
    for optimizer in optimizers:
        wide = makers[optimizer](1e-3)
        steps: dict[str, timing.Repeated] = {}
        programs = {}
        with report.progress(f"{name}, {optimizer}: compiling, then {rounds} rounds", rounds) as advance:
            for state, made in zip(STATES, (wide, nag_optax.low_memory(wide)), strict=True):
                steps[state], programs[state] = contenders.jax_step(made, grads)
            timings = timing.interleaved_medians(steps, rounds, advance)
        entry["optimizers"][optimizer] = {
            state: {
                # Beside the state a step takes parameters and gradients, both in float32.
                "state_bytes_per_parameter": programs[state].argument_bytes / parameters - 8,
                "bytes_per_parameter": programs[state].bytes_accessed / parameters,
                "temporary_bytes_per_parameter": programs[state].temporary_bytes / parameters,
                "kernels": programs[state].kernels,
                "milliseconds": 1e3 * timed.median,
                "quartiles": [1e3 * timed.lower_quartile, 1e3 * timed.upper_quartile],
            }
            for state, timed in timings.items()
        }
    return entry


def losses(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each optimizer ends at on each task, by seed."""
    import jax

    from benchmarks import report
    from nag_optax import low_memory
    from nag_optax.compare.lanes import Lane, LaneRunner
    from nag_optax.compare.spec import CONTENDERS
    from nag_optax.train.data import load_dataset
    from nag_optax.train.optimizers import core
    from nag_optax.train.options import Options
    from nag_optax.train.rows import Optimizer
    from nag_optax.train.spec import resolve

    entries = []
    for dataset, model in TASKS:
        data_dir = options.data_dir if dataset == "mnist" else None
        if dataset == "mnist" and data_dir is None:
            continue
        run = Options(
            dataset=dataset,
            data_dir=data_dir,
            model=model,
            num_epochs=options.num_epochs,
        )
        spec = resolve(run)
        runner = LaneRunner(spec, load_dataset(spec), jax.devices()[0])
        entry: dict[str, Any] = {"dataset": dataset, "model": model, "num_epochs": runner.num_epochs}
        for name in options.optimizers:
            wide = CONTENDERS[name]
            narrow = Optimizer(
                lambda rate: low_memory(core(wide, rate, model=spec.model_row)),  # noqa: B023
                f"{name} {NARROW}",
            )
            rate = wide.searched[dataset, model]
            lanes = [Lane(rate, seed) for seed in range(options.seeds)]
            found: dict[str, Any] = {"learning_rate": rate}
            for state, row in zip(STATES, (wide, narrow), strict=True):
                with report.progress(f"{dataset} {model}, {name}, {state}", runner.num_chunks) as advance:
                    results = runner.run(row, lanes, lambda _: advance())  # noqa: B023
                found[state] = [result.final_train.loss for result in results if result.final_train]
            entry.setdefault("optimizers", {})[name] = found
        entries.append(entry)
    return entries


def rows(entry: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of one tree: two of each optimizer."""
    label = f"{entry['tree']}: {entry['parameters']:,} in {entry['leaves']}"
    made = []
    for name, states in entry["optimizers"].items():
        wide = states[WIDE]
        for state, numbers in states.items():
            made.append(
                (
                    "" if made else label,
                    name if state == WIDE else "",
                    state,
                    f"{numbers['state_bytes_per_parameter']:.3f}",
                    f"{4 * numbers['state_bytes_per_parameter'] / wide['state_bytes_per_parameter']:.3f}",
                    f"{numbers['bytes_per_parameter']:.1f}",
                    f"{numbers['temporary_bytes_per_parameter']:.1f}",
                    str(numbers["kernels"]),
                    f"{numbers['milliseconds']:.3g}",
                    "{:.3g} to {:.3g}".format(*numbers["quartiles"]),
                    "" if state == WIDE else f"{numbers['milliseconds'] / wide['milliseconds']:.2f}",
                )
            )
    return made


def loss_rows(entry: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of one task."""
    from nag_optax.compare.report import counted, spread

    label = f"{entry['dataset']} {entry['model']}, {counted(entry['num_epochs'], 'epoch')}"
    made = []
    for name, found in entry["optimizers"].items():
        wide, narrow = found[WIDE], found[NARROW]
        higher = statistics.fmean(narrow) - statistics.fmean(wide)
        made.append(
            (
                "" if made else label,
                name,
                f"{found['learning_rate']:g}",
                spread(wide, ".2e"),
                spread(narrow, ".2e"),
                f"{higher / statistics.stdev(wide):+.1f}" if len(wide) > 1 else "",
            )
        )
    return made


def tables(result: dict[str, Any]) -> list[tuple[str, tuple[str, ...], list[list[tuple[str, ...]]]]]:
    """The tables of a result: for each its title, its columns and its groups of rows."""
    found = []
    if result.get("trees"):
        groups = [rows(entry) for entry in result["trees"]]
        found.append(("One update step", COLUMNS, groups))
    if result.get("losses"):
        seeds = {len(runs[WIDE]) for entry in result["losses"] for runs in entry["optimizers"].values()}
        title = f"Final loss, {' or '.join(map(str, sorted(seeds)))} seeds"
        found.append((title, LOSS_COLUMNS, [loss_rows(entry) for entry in result["losses"]]))
    return found


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    # By default JAX takes most of a GPU's memory at its first use.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from benchmarks import report

    result = report.environment()
    if options.only != "losses":
        trees = dict.fromkeys(options.trees)
        result["repeats"] = options.repeats
        result["trees"] = [measure(n, TREES[n](), options.optimizers, options.repeats) for n in trees]
    if options.only != "steps":
        from nag_optax.train.errors import InputError

        try:
            result["losses"] = losses(options)
        except InputError as error:
            raise SystemExit(f"benchmarks.memory: {error}") from None
    for title, columns, groups in tables(result):
        report.show(f"{title}: {report.headline(result)}", columns, groups)
    if options.json:
        before = json.loads(options.json.read_text()) if options.only and options.json.exists() else {}
        report.write_json(options.json, before | result)


if __name__ == "__main__":
    main()
