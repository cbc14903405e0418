"""Checkpoints of a run, complete or absent. A damaged one gives way to the one before."""

import hashlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from orbax.checkpoint import v1 as ocp

from nag_optax._arrays import named
from nag_optax.train.data.parts import readable
from nag_optax.train.environment import versions_of
from nag_optax.train.errors import InputError, reason
from nag_optax.train.parallel import largest

_KEEP = 3
# What decides the structure of a state, and how it is written.
_PACKAGES = ("nag_optax", "optax", "flax", "orbax-checkpoint")


class Restored(NamedTuple):
    """A state read back, its step, and the notes that were saved with it."""

    step: int
    state: Any
    notes: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder.

    Orbax writes the state into a folder of its own; of several processes each writes its part. Then
    `<step>.json` gets the name of that folder, a digest of each file and the notes: it makes the checkpoint
    complete, and shows damage before Orbax meets it. Older checkpoints are removed last.
    """

    def __init__(self, folder: Path):
        self._folder = folder.resolve()  # Orbax takes absolute paths alone

    def save(self, step: int, state: Any, notes: dict[str, Any], best: int | None = None) -> None:
        """Writes `state` as the newest checkpoint, then drops all but the last three and the best."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._check_space(state)
            folder = self._unused(step)
            with _quiet():
                ocp.save_checkpointables(str(folder), {"state": state})  # All processes together.
            if jax.process_index():
                return
            record: dict[str, Any] = {
                "folder": folder.name,
                "files": _digests(folder),
                "versions": versions_of(*_PACKAGES),
                "notes": notes,
                "best": best,
            }
            record["digest"] = _digest_of(record)
            partial = self._record(step).with_suffix(".partial")
            partial.write_text(json.dumps(record))
            os.replace(partial, self._record(step))
            self._remove_others(step, folder, best)
        except (OSError, ValueError) as error:  # TensorStore reports errors of the disk as ValueError.
            of_the_disk = isinstance(error, OSError) and not isinstance(error, TimeoutError)
            if jax.process_count() > 1 and not of_the_disk:  # Another process is gone.
                raise
            raise InputError(
                f"{self._folder}: the checkpoint of step {step} could not be written ({reason(error)}); "
                "fix that, then --resume"
            ) from error

    def restore(self, like: Any, say: Callable[[str], None], *, best: bool = False) -> Restored | None:
        """The newest checkpoint that is whole, or None if there is none at all.

        Arrays come back with the shapes and shardings of `like`. Each damaged checkpoint is told to `say`.
        """
        newest = self._newest(self._recorded) if best else None
        found = self._newest(self._verified, newest and newest[1]["best"])
        if found is None:
            return None
        step, record, damaged = found
        for what in damaged:
            say(f"{what}; using that of step {step}")
        state = _load(self._folder / record["folder"], like, record["versions"])
        return Restored(step, state, record["notes"])

    def data_facts(self) -> dict[str, Any] | None:
        """The facts about the data in the newest readable notes. They are the same in all of a run."""
        found = self._newest(self._recorded)
        return None if found is None else found[1]["notes"].get("data")

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, newest first."""
        with readable():
            files = list(self._folder.iterdir()) if self._folder.exists() else []
        steps = (int(path.stem) for path in files if path.suffix == ".json" and path.stem.isdecimal())
        return sorted(steps, reverse=True)

    def _newest(
        self, read: Callable[[int], dict[str, Any]], first: int | None = None
    ) -> tuple[int, dict[str, Any], list[str]] | None:
        """The `first` or newest step that can be read, its record, and the faults of those before it."""
        damaged = []
        for step in sorted(self.steps(), key=lambda step: step != first):
            try:
                return step, read(step), damaged
            except (OSError, ValueError) as error:
                damaged.append(f"checkpoint {self._folder / str(step)} is damaged ({reason(error)})")
        if damaged:
            raise InputError(f"{'; '.join(damaged)}; none is left: train it again with --overwrite")
        return None

    def _verified(self, step: int) -> dict[str, Any]:
        """The record of a checkpoint whose files are as they were written."""
        record = self._recorded(step)
        if _digests(self._folder / record["folder"]) != record["files"]:
            raise ValueError("its files have changed since they were written")
        return record

    def _recorded(self, step: int) -> dict[str, Any]:
        record = json.loads(self._record(step).read_text())
        if record.pop("digest", None) != _digest_of(record):
            raise ValueError("its record has changed since it was written")
        return record

    def _record(self, step: int) -> Path:
        return self._folder / f"{step}.json"

    def _unused(self, step: int) -> Path:
        """A folder of this step beside those that are there already, whole or not."""
        names = itertools.chain([f"{step}"], (f"{step}.{i}" for i in itertools.count(1)))
        # Where a save failed, a thread of Orbax's may still be at work on its unfinished folder.
        first = next(
            i
            for i, name in enumerate(names)
            if not (self._folder / name).exists() and not any(self._folder.glob(f"{name}.orbax*"))
        )
        first = largest(first)  # Every process has looked before one of them writes.
        return self._folder / (f"{step}.{first}" if first else f"{step}")

    def _remove_others(self, step: int, folder: Path, best: int | None) -> None:
        """Removes what this checkpoint replaces, and all but the last three and the best.

        Checkpoints of later steps are damaged or were not completed.
        """
        older = [earlier for earlier in self.steps() if earlier < step]
        kept = {*older[: _KEEP - 1], *(earlier for earlier in older if earlier == best)}
        for path in self._folder.iterdir():
            name = path.name.split(".")[0]
            if name.isdecimal() and int(name) not in kept and path not in (folder, self._record(step)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _check_space(self, state: Any) -> None:
        """Looks beforehand, because Orbax's threads report a full disk with pages of tracebacks."""
        # Twice the arrays: Orbax writes each file, then merges them.
        needed = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + 100_000
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise OSError(f"the disk has {free / 1e6:.1f} MB left, a checkpoint needs {needed / 1e6:.1f} MB")


def _load(folder: Path, like: Any, versions: dict[str, str]) -> Any:
    """The state in a folder whose files are whole; `versions` are those of the packages that wrote it."""
    try:
        with _quiet():
            stored = _structure(ocp.checkpointables_metadata(str(folder)).metadata["state"])
            here = _structure(like)
            for path in sorted(stored.keys() | here.keys()):  # Orbax would cast another dtype without a word.
                if stored.get(path) != here.get(path):
                    found, wanted = stored.get(path, "missing"), here.get(path, "expected")
                    raise ValueError(f"{path} is {found}, not {wanted}")
            return ocp.load_checkpointables(str(folder), {"state": like})["state"]
    except (ValueError, KeyError) as error:
        packages = ", ".join(f"{name} {version}" for name, version in versions.items())
        raise InputError(
            f"checkpoint {folder} is whole, but from another version ({reason(error)}); use the packages "
            f"that wrote it: {packages}; or train anew in another --run-dir"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from logging. Its errors are raised, and said in one line."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _structure(tree: Any) -> dict[str, str]:
    """The shape and dtype of each array by its path, in a state or in Orbax's metadata of one."""
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in named(tree).items()}


def _digests(folder: Path) -> dict[str, str]:
    """A digest of each file below the folder, by its relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _digest(path.read_bytes()) for path in paths}


def _digest_of(record: dict[str, Any]) -> str:
    return _digest(json.dumps(record, sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
