"""The table of defaults that depend on dataset and model."""

from typing import NamedTuple

from nag_optax.train.catalogue import OPTIMIZERS


class Defaults(NamedTuple):
    """Defaults for one dataset and model; the learning rates stand with the optimizers."""

    num_epochs: int
    batch_size: int
    schedule: str
    warmup_epochs: float
    steps_per_report: int  # steps in one compiled scan, between two looks at the progress


DEFAULTS: dict[tuple[str, str], Defaults] = {
    ("digits", "mlp"): Defaults(
        num_epochs=60,
        batch_size=32,
        schedule="cosine",
        warmup_epochs=1.0,
        steps_per_report=50,
    ),
    ("digits", "cnn"): Defaults(
        num_epochs=12,
        batch_size=32,
        schedule="linear",
        warmup_epochs=1.0,
        steps_per_report=25,
    ),
    ("mnist", "mlp"): Defaults(
        num_epochs=5,
        batch_size=64,
        schedule="linear",
        warmup_epochs=0.5,
        steps_per_report=100,
    ),
    ("mnist", "cnn"): Defaults(
        num_epochs=3,
        batch_size=64,
        schedule="linear",
        warmup_epochs=0.3,
        steps_per_report=20,
    ),
}


def defaults_table() -> str:
    """The table in plain text, for --help."""
    columns = [["", "", "epochs", "batch", "schedule", "warm-up", *OPTIMIZERS]]
    for (dataset, model), d in DEFAULTS.items():
        rates = [f"{row.learning_rates[dataset, model]:g}" for row in OPTIMIZERS.values()]
        columns.append(
            [dataset, model, str(d.num_epochs), str(d.batch_size), d.schedule, f"{d.warmup_epochs:g}", *rates]
        )
    rows = list(zip(*columns, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
