"""Which epoch of a run is the best, and when it is time to stop: functions of the rows so far."""

from typing import Any

Rows = list[dict[str, Any]]


def best_row(rows: Rows) -> dict[str, Any] | None:
    """The first with the highest validation accuracy; None where nothing was held out."""
    measured = [row for row in rows if row["validation_accuracy"] is not None]
    return max(measured, key=lambda row: row["validation_accuracy"], default=None)


def stop_reason(rows: Rows, target: float | None, patience: int | None) -> str | None:
    """Why the run stops after these rows, or None."""
    if (best := best_row(rows)) is None:
        return None
    accuracy, epoch = f"validation accuracy {best['validation_accuracy']:.2%}", best["epoch"]
    if target is not None and best["validation_accuracy"] >= target:
        return f"{accuracy} in epoch {epoch} reaches the target, {target:g}"
    if patience is not None and rows[-1]["epoch"] - epoch >= patience:
        return f"{accuracy} in epoch {epoch} was not exceeded in {patience} epochs"
    return None
