"""The best epoch so far, the reason to stop, and the advice where the loss is too high."""

from pathlib import Path
from typing import Any

from nag_optax.train.progress import shown
from nag_optax.train.spec import Spec

Rows = list[dict[str, Any]]


def best_row(rows: Rows) -> dict[str, Any] | None:
    """The first row with the highest validation accuracy, or None where nothing was held out."""
    measured = [row for row in rows if row["validation_accuracy"] is not None]
    return max(measured, key=lambda row: row["validation_accuracy"], default=None)


def stop_reason(rows: Rows, target: float | None, patience: int | None) -> str | None:
    """The reason why a run stops after these rows, or None."""
    if (best := best_row(rows)) is None:
        return None
    accuracy, epoch = f"validation accuracy {best['validation_accuracy']:.2%}", best["epoch"]
    if target is not None and best["validation_accuracy"] >= target:
        return f"{accuracy} in epoch {epoch} reaches the target, {target:g}"
    if patience is not None and rows[-1]["epoch"] - epoch >= patience:
        more = f"{patience} more epoch{'s' * (patience > 1)}"
        return f"{accuracy} in epoch {epoch} is still the best after {more}"
    return None


def divergence(spec: Spec, run_dir: Path, kept: list[int], step: int, epoch: int) -> str:
    """The line that ends a run whose loss is not finite; `kept` are steps of checkpoints, newest first."""
    where = f"the checkpoint of step {kept[0]} is kept" if kept else "no checkpoint was written yet"
    return f"the loss is not finite at step {step} (epoch {epoch}); {where} in {run_dir}. {_advice(spec)}"


def too_high(spec: Spec, row: dict[str, Any], guess: float) -> str:
    """The warning where the loss of an epoch is far above the loss of a guess."""
    return (
        f"warning: the loss of epoch {row['epoch']} is {shown(row['train_loss'])}, but guessing "
        f"has {shown(guess)}: the learning rate is too high. {_advice(spec)}"
    )


def _advice(spec: Spec) -> str:
    clip = ", or with --clip-norm 1" if spec.clip_norm is None else ""
    rate = f"{spec.learning_rate:g} (default {spec.usual_learning_rate:g})"
    return f"Start a new --run-dir with a lower --learning-rate than {rate}{clip}"
