"""`--tensorboard`: the numbers of `metrics.jsonl` as scalars in an event file, beside it."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nag_optax.train.errors import InputError

EVENTS = "events.out.tfevents.*"


def check_installed() -> None:
    """Refuses a run whose events cannot be written without the extra."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError(
            "--tensorboard: needs tensorboardX: install the extra, pip install 'nag_optax[tensorboard]'"
        )


@contextmanager
def event_file(folder: Path, step: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Opens a file of events, and gives a function that adds a row of the metrics to it.

    A run that goes on at `step` takes the place of later steps in earlier files.
    """
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder), purge_step=step + 1) as writer:

        def add(row: dict[str, Any]) -> None:
            for name, value in row.items():
                if name != "step" and value is not None:
                    writer.add_scalar(name, value, row["step"])
            writer.flush()

        yield add
