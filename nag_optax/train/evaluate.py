"""`nag-optax evaluate`: the accuracy of a finished run."""

import dataclasses
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from nag_optax.train.bar import busy, say
from nag_optax.train.data import load_dataset, source_of
from nag_optax.train.devices import find_devices
from nag_optax.train.options import EvaluateOptions
from nag_optax.train.progress import shown
from nag_optax.train.signals import collected_signals, interrupted
from nag_optax.train.transfer import check_same_shapes, standardised_as, stored_run


def evaluate(options: EvaluateOptions, console: Console | None = None) -> dict[str, Any]:
    """Prints and returns the accuracy and loss of a run's best checkpoint, else the newest, on each split."""
    console = console or Console()
    with collected_signals() as interrupts:
        devices = find_devices(options.device, 1)
        with busy(console, "reading the model"):
            spec, facts, loop, state = stored_run(options.run_dir, devices, partial(say, console))
        if options.data_dir is not None and spec.data_dir is not None:
            spec = dataclasses.replace(spec, data_dir=options.data_dir)
        dataset = load_dataset(spec, facts, console, devices[0])
        check_same_shapes(dataset, facts, source_of(spec))
        loop.dataset = standardised_as(dataset, facts)

        def look() -> None:
            if interrupts:
                raise interrupted(interrupts, "")

        epochs = int(state.step) / -(-facts["train_images"] // spec.batch_size)
        table = Table(title=f"{options.run_dir}, epoch {epochs:g} of {spec.num_epochs}", title_justify="left")
        for column in ("split", "accuracy", "loss", "images"):
            table.add_column(column, justify="left" if column == "split" else "right")
        results: dict[str, Any] = {}
        held_out = () if dataset.validation is None else (("validation", dataset.validation),)
        for name, split in (("train", dataset.train), *held_out, ("test", dataset.test)):
            if not len(split.labels):  # A run with --train-only may have no test split.
                continue
            with busy(console, f"evaluating {name} images"):
                metrics = loop.evaluate(state, split, look)
            results[f"{name}_accuracy"], results[f"{name}_loss"] = metrics.accuracy, metrics.loss
            table.add_row(name, f"{metrics.accuracy:.2%}", shown(metrics.loss), str(len(split.labels)))
        console.print(table)
        return results
