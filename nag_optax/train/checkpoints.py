"""Checkpoints of a run: complete or absent, verified when read; a damaged one gives way to the one before."""

import hashlib
import json
import logging
import os
import shutil
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
from orbax.checkpoint import v1 as ocp

from nag_optax.train.errors import InputError

_KEEP = 3


class Restored(NamedTuple):
    """A state read back, its step, and the notes that were saved with it."""

    step: int
    state: Any
    notes: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder.

    Orbax writes `<step>/`; then `<step>.json` is written, with a digest of each file and the notes.
    That second file makes the checkpoint complete, and shows damage before Orbax meets it.
    """

    def __init__(self, folder: Path):
        self._folder = folder.resolve()  # Orbax takes absolute paths alone
        # Their news are for Orbax's developers; what concerns a run is raised, and said in one line.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def save(self, step: int, state: Any, notes: dict[str, Any]) -> None:
        """Writes `state` as the newest checkpoint and drops all but the last three.

        Raises:
            InputError: if the disk is full or cannot be written; the checkpoints before it stay.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._check_space(state)
            # Ahead of this step there can only be a damaged one, or one that was not completed.
            for path in self._folder.iterdir():
                if path.name.split(".")[0].isdecimal() and int(path.name.split(".")[0]) >= step:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            with ocp.training.Checkpointer(str(self._folder)) as checkpointer:
                checkpointer.save(step, state)
            record = {"files": _digests(self._folder / str(step)), "notes": notes}
            partial = self._record(step).with_suffix(".partial")
            partial.write_text(json.dumps(record))
            os.replace(partial, self._record(step))
            for old in self.steps()[_KEEP:]:
                self._record(old).unlink()
                if (self._folder / str(old)).exists():  # What is damaged may be gone.
                    shutil.rmtree(self._folder / str(old))
        except Exception as error:  # Orbax passes on the errors of several storage layers.
            raise InputError(
                f"{self._folder}: the checkpoint of step {step} could not be written ({_reason(error)}); "
                "mend that, then --resume"
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
                damaged.append(f"checkpoint {self._folder / str(step)} is damaged ({_reason(error)})")
                continue
            for what in damaged:
                say(f"{what}; using the one before, of step {step}")
            return restored
        if damaged:
            raise InputError(f"{'; '.join(damaged)}; none is left: start again with --overwrite")
        return None

    def data_facts(self) -> dict[str, Any] | None:
        """What the newest notes that can be read say of the data, which is the same in all of a run."""
        for step in self.steps():
            with suppress(OSError, ValueError, KeyError, TypeError):
                return json.loads(self._record(step).read_text())["notes"]["data"]
        return None

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, newest first."""
        records = self._folder.glob("*.json") if self._folder.is_dir() else ()
        return sorted((int(path.stem) for path in records if path.stem.isdecimal()), reverse=True)

    def _load(self, step: int, like: Any) -> Restored:
        record = json.loads(self._record(step).read_text())
        if _digests(self._folder / str(step)) != record["files"]:
            raise ValueError("its files are not those that were written")
        with ocp.training.Checkpointer(str(self._folder)) as checkpointer:
            return Restored(step, checkpointer.load(step, like), record["notes"])

    def _record(self, step: int) -> Path:
        return self._folder / f"{step}.json"

    def _check_space(self, state: Any) -> None:
        """Beforehand, because Orbax's threads report a full disk with pages of tracebacks."""
        # Twice the arrays: Orbax writes each file, then merges them.
        needed = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + 100_000
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise OSError(f"the disk has {free / 1e6:.1f} MB left, a checkpoint needs {needed / 1e6:.1f} MB")


def _digests(folder: Path) -> dict[str, str]:
    """A digest of each file below the folder, by its relative path."""
    return {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _reason(error: BaseException) -> str:
    """One short line: some of Orbax's messages hold whole arrays."""
    lines = str(error).strip().splitlines()
    return textwrap.shorten(lines[0], 120, placeholder=" …") if lines else type(error).__name__
