"""`nag-optax evaluate`: the accuracy of a finished run."""

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.data import load_dataset, source_of
from nag_optax.train.devices import find_devices
from nag_optax.train.errors import InputError
from nag_optax.train.folder import CHECKPOINTS, CONFIG
from nag_optax.train.loop import Loop
from nag_optax.train.options import EvaluateOptions
from nag_optax.train.progress import shown
from nag_optax.train.signals import collected_signals, interrupted
from nag_optax.train.spec import load_spec
from nag_optax.train.transfer import check_same_shapes, standardised_as


def evaluate(options: EvaluateOptions, console: Console | None = None) -> dict[str, Any]:
    """Prints and returns the accuracy and loss of a run's best checkpoint, else the newest, on each split."""
    with collected_signals() as interrupts:
        return _evaluate(options, console or Console(), interrupts)


def _evaluate(options: EvaluateOptions, console: Console, interrupts: list[int]) -> dict[str, Any]:
    run = load_spec(options.run_dir / CONFIG)
    if options.data_dir is not None and run.data_dir is not None:
        run = dataclasses.replace(run, data_dir=options.data_dir)
    devices = find_devices(options.device, 1)
    checkpoints = Checkpoints(options.run_dir / CHECKPOINTS)
    facts = checkpoints.data_facts()
    dataset = load_dataset(run, facts, console, devices[0])
    if facts is not None:
        check_same_shapes(dataset, facts, source_of(run))
        dataset = standardised_as(dataset, facts)
    loop = Loop(run, dataset, devices)

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    def look() -> None:
        if interrupts:
            raise interrupted(interrupts, "")

    restored = checkpoints.restore(loop.init(), say, best=True)
    if restored is None:
        raise InputError(f"{options.run_dir}: holds no complete checkpoint; train it with nag-optax train")

    epochs = restored.step / loop.steps_per_epoch
    table = Table(title=f"{options.run_dir}, epoch {epochs:g} of {run.num_epochs}", title_justify="left")
    for column in ("split", "accuracy", "loss", "images"):
        table.add_column(column, justify="left" if column == "split" else "right")
    results: dict[str, Any] = {}
    held_out = () if dataset.validation is None else (("validation", dataset.validation),)
    for name, split in (("train", dataset.train), *held_out, ("test", dataset.test)):
        if not len(split.labels):  # A run with --train-only may have no test split.
            continue
        metrics = loop.evaluate(restored.state, split, look)
        results[f"{name}_accuracy"], results[f"{name}_loss"] = metrics.accuracy, metrics.loss
        table.add_row(name, f"{metrics.accuracy:.2%}", shown(metrics.loss), str(len(split.labels)))
    console.print(table)

    return results
