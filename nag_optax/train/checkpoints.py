"""Checkpoints of a run: complete or absent, verified when read, the one before if the newest is damaged."""

import hashlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from nag_optax.train.errors import InputError, TrainError

_KEEP = 3


class Restored(NamedTuple):
    """A state read back, its step, and the notes that were saved with it."""

    step: int
    state: Any
    notes: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder. Orbax writes beside the folder's name and renames when complete."""

    def __init__(self, folder: Path):
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._folder = folder.resolve()  # Orbax takes absolute paths alone

    def save(self, step: int, state: Any, notes: dict[str, Any]) -> None:
        """Writes `state` as the newest checkpoint and drops all but the last three.

        Raises:
            TrainError: if the disk is full or cannot be written; what is there already stays.
        """
        keep = ocp.training.preservation_policies.LatestN(_KEEP)
        metadata = {"digest": _digest(state), "notes": notes}
        try:
            # A checkpoint ahead of this one was damaged, or is of a future that did not happen.
            for newer in (s for s in self.steps() if s > step):
                shutil.rmtree(self._folder / str(newer))
            with ocp.training.Checkpointer(
                str(self._folder), preservation_policy=keep, cleanup_tmp_directories=True
            ) as checkpointer:
                checkpointer.save(step, state, custom_metadata=metadata, overwrite=True)
        except Exception as error:  # Orbax passes on the errors of several storage layers.
            raise InputError(
                f"{self._folder}: checkpoint {step} could not be written ({_first_line(error)}); "
                "make room or choose another --run-dir, then --resume"
            ) from error

    def restore(self, like: Any, say: Callable[[str], None]) -> Restored | None:
        """The newest checkpoint that is whole; None if there is none at all.

        Args:
            like: a state of the same structure; arrays come back with its shapes and shardings.
            say: told, in one line, of each damaged checkpoint that is passed over.

        Raises:
            InputError: if there are checkpoints and every one is damaged.
        """
        damaged = []
        for step in self.steps():
            try:
                restored = self._load(step, like)
            except Exception as error:  # Any error at all means: not this one.
                damaged.append(f"{self._folder / str(step)} ({_first_line(error)})")
                continue
            for what in damaged:
                say(f"checkpoint {what} is damaged; using the one before, of step {step}")
            return restored
        if damaged:
            raise InputError(f"no checkpoint can be read: {'; '.join(damaged)}; start again with --overwrite")
        return None

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, newest first."""
        if not self._folder.is_dir():
            return []
        names = (path.name for path in self._folder.iterdir() if path.is_dir())
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def _load(self, step: int, like: Any) -> Restored:
        with ocp.training.Checkpointer(str(self._folder)) as checkpointer:
            metadata = checkpointer.metadata(step).custom_metadata
            state = checkpointer.load(step, like)
        if not isinstance(metadata, dict) or metadata.get("digest") != _digest(state):
            raise TrainError("its contents do not match their digest")
        return Restored(step, state, metadata["notes"])


def _digest(state: Any) -> str:
    """A digest over paths, dtypes and bytes: Orbax itself does not notice a flipped bit in every file."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
