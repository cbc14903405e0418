"""The one table of defaults that depend on dataset, model and optimizer."""

from typing import NamedTuple


class Defaults(NamedTuple):
    """Defaults for one dataset and model; the learning rates are by optimizer."""

    num_epochs: int
    batch_size: int
    schedule: str
    warmup_epochs: float
    learning_rate: dict[str, float]
    steps_per_report: int  # steps in one compiled scan, between two looks at the progress


DEFAULTS: dict[tuple[str, str], Defaults] = {
    ("digits", "mlp"): Defaults(
        num_epochs=60,
        batch_size=32,
        schedule="cosine",
        warmup_epochs=1.0,
        learning_rate={"nag": 0.1, "sgd": 0.3, "momentum": 0.1, "adam": 3e-3, "adamw": 3e-3},
        steps_per_report=50,
    ),
    ("digits", "cnn"): Defaults(
        num_epochs=12,
        batch_size=32,
        schedule="cosine",
        warmup_epochs=1.0,
        learning_rate={"nag": 0.05, "sgd": 0.1, "momentum": 0.05, "adam": 1e-3, "adamw": 1e-3},
        steps_per_report=25,
    ),
    ("mnist", "mlp"): Defaults(
        num_epochs=5,
        batch_size=64,
        schedule="cosine",
        warmup_epochs=0.0,
        learning_rate={"nag": 0.1, "sgd": 0.1, "momentum": 0.1, "adam": 1e-3, "adamw": 1e-3},
        steps_per_report=100,
    ),
    ("mnist", "cnn"): Defaults(
        num_epochs=3,
        batch_size=64,
        schedule="cosine",
        warmup_epochs=0.0,
        learning_rate={"nag": 0.05, "sgd": 0.1, "momentum": 0.05, "adam": 1e-3, "adamw": 1e-3},
        steps_per_report=20,
    ),
}
