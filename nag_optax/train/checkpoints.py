"""Checkpoints of a run, complete or absent. A damaged one gives way to the one before."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nag_optax._arrays import named
from nag_optax.train.environment import versions_of
from nag_optax.train.errors import InputError, reason
from nag_optax.train.parallel import put, whole

_KEEP = 3
_PACKAGES = ("nag_optax", "optax", "flax")
"""These decide the structure of a state."""
_DIGEST = 16
"""Bytes of the digest."""


class Restored(NamedTuple):
    """A state read back, its step, and the notes that were saved with it."""

    step: int
    state: Any
    notes: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder, each a file `<step>.npz` that appears complete or not at all.

    It has the arrays of the state by their paths, and a record as JSON. A digest of all this stands behind
    it, where NumPy does not look.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def save(self, step: int, state: Any, notes: dict[str, Any], best: int | None = None) -> None:
        """Writes `state` as the newest checkpoint, then drops all but the last three and the best."""
        arrays: dict[str, Any] = {
            path: whole(array) for path, array in named(state).items()
        }  # All processes together.
        if jax.process_index():
            return
        versions = versions_of(*_PACKAGES)
        record = {"structure": _structure(state), "versions": versions, "notes": notes, "best": best}
        arrays["record"] = np.bytes_(json.dumps(record).encode())
        file = io.BytesIO()
        np.savez(file, **arrays)
        partial = self._path(step).with_suffix(".partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                stream.write(file.getbuffer())
                stream.write(_digest(file.getbuffer()))
            os.replace(partial, self._path(step))
            self._remove_others(step, best)
        except OSError as error:
            raise InputError(
                f"{self._folder}: the checkpoint of step {step} could not be written ({reason(error)}); "
                "fix that, then --resume"
            ) from error

    def restore(self, like: Any, say: Callable[[str], None], *, best: bool = False) -> Restored | None:
        """The newest checkpoint that is whole, or None if there is none at all.

        Arrays come back with the shapes and shardings of `like`. Each damaged checkpoint is told to `say`.
        """
        damaged = []
        first = (self._newest_record() or {}).get("best") if best else None
        for step in sorted(self.steps(), key=lambda step: step != first):
            try:
                arrays, record = self._read(step)
            except (OSError, ValueError) as error:
                damaged.append(f"checkpoint {self._path(step)} is damaged ({reason(error)})")
                continue
            for what in damaged:
                say(f"{what}; using that of step {step}")
            self._check_same(step, record, _structure(like))
            leaves = [put(arrays[path].view(x.dtype), x.sharding) for path, x in named(like).items()]
            return Restored(step, jax.tree.structure(like).unflatten(leaves), record["notes"])
        if damaged:
            raise InputError(f"{'; '.join(damaged)}; none is left: train it again with --overwrite")
        return None

    def data_facts(self) -> dict[str, Any] | None:
        """The facts about the data in the newest readable notes. They are the same in all of a run."""
        record = self._newest_record()
        return None if record is None else record["notes"].get("data")

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, newest first."""
        files = self._folder.glob("*.npz")
        return sorted((int(path.stem) for path in files if path.stem.isdecimal()), reverse=True)

    def _newest_record(self) -> dict[str, Any] | None:
        for step in self.steps():
            with suppress(OSError, ValueError):
                return self._read(step)[1]
        return None

    def _read(self, step: int) -> tuple[Any, dict[str, Any]]:
        """The arrays and the record of a checkpoint that is as it was written."""
        content = memoryview(self._path(step).read_bytes())
        if _digest(content[:-_DIGEST]) != content[-_DIGEST:]:
            raise ValueError("it has changed since it was written")
        arrays = np.load(io.BytesIO(content), allow_pickle=False)
        return arrays, json.loads(arrays["record"].item())

    def _path(self, step: int) -> Path:
        return self._folder / f"{step}.npz"

    def _remove_others(self, step: int, best: int | None) -> None:
        """Removes all but this checkpoint, the last two before it and the best.

        Those of later steps are damaged, or were not completed.
        """
        older = [earlier for earlier in self.steps() if earlier < step]
        kept = {step, *older[: _KEEP - 1], *(earlier for earlier in older if earlier == best)}
        for path in self._folder.iterdir():
            if path.stem.isdecimal() and path not in map(self._path, kept):
                path.unlink()

    def _check_same(self, step: int, record: dict[str, Any], here: dict[str, str]) -> None:
        """Refuses a state of another structure, which is no damage."""
        stored = record["structure"]
        for path in sorted(stored.keys() | here.keys()):
            if stored.get(path) != here.get(path):
                packages = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
                found, wanted = stored.get(path, "missing"), here.get(path, "expected")
                raise InputError(
                    f"checkpoint {self._path(step)} is whole, but from another version ({path} is {found}, "
                    f"not {wanted}); use the packages that wrote it: {packages}; or train anew in another "
                    "--run-dir"
                )


def _structure(tree: Any) -> dict[str, str]:
    """The dtype and shape of each array. NumPy's files do not tell bfloat16 from other two bytes."""
    return {path: f"{array.dtype}{list(array.shape)}" for path, array in named(tree).items()}


def _digest(content: Any) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()
