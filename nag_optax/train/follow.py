"""--follow: pictures that arrive in the training folder while a run goes on, and the record of them.

`pictures.jsonl` has a line an epoch, with the names and sizes of the files that it was the first to see; the
first line has those that the run began with. A line is written before the epoch begins, and never changed:
a run that is resumed has the pictures of the record, in its order, whatever else has arrived since.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nag_optax.train.data import Dataset
from nag_optax.train.data.folder import has_test_part, pictures_in
from nag_optax.train.data.parts import in_test_part, readable
from nag_optax.train.data.pictures import Pictures
from nag_optax.train.errors import InputError, reason
from nag_optax.train.folder import PICTURES, RunFolder
from nag_optax.train.loop import Loop
from nag_optax.train.rows import Split
from nag_optax.train.spec import Spec


class Arrivals:
    """The pictures of each epoch of a run."""

    def __init__(self, folder: RunFolder, root: Path, resume: bool):
        self._folder, self._root = folder, root
        self._below = "train" if (root / "train").is_dir() else ""
        self._lines: list[list[tuple[str, int]]] = folder.pictures() if resume else []
        self._passed_over: set[str] = set()
        self._num_known = 0
        for name, size in (file for line in self._lines for file in line):
            self._check(name, size)

    def among(self, names: Sequence[str], sizes: Sequence[int]) -> list[bool]:
        """Which of the files in the folder the run began with."""
        if not self._lines:
            self._lines = [list(zip(names, sizes, strict=True))]
        return began_with(self._lines, names)

    def take_in(self, loop: Loop, dataset: Dataset, epoch: int, say: Callable[[str], None]) -> None:
        """Gives the loop the pictures of an epoch, from the record or from the folder as it is now."""
        if epoch == 1:
            self._forget_unreadable(dataset)
        if len(self._lines) < epoch:
            with readable():
                self._lines.append(self._arrived(dataset, say))
        self._folder.write(PICTURES, "".join(json.dumps(line) + "\n" for line in self._lines))
        arrived = [file for line in self._lines[1:epoch] for file in line]
        if len(arrived) == self._num_known:
            return
        self._num_known = len(arrived)
        latest = max(i for i in range(1, epoch) if self._lines[i])
        new = [dataset.class_names.index(Path(name).parent.name) for name, _ in arrived]
        images, labels = dataset.train
        both = (images, _of(images, arrived))
        names, sizes = np.concatenate([p.names for p in both]), np.concatenate([p.sizes for p in both])
        images = dataclasses.replace(images, names=names, sizes=sizes)
        labels = np.concatenate([labels, np.array(new, np.int32)])
        loop.grow(Split(images, labels), (latest, len(self._lines[latest])))

    def _forget_unreadable(self, dataset: Dataset) -> None:
        """Takes the files out that --skip-unreadable left out: the next epoch looks at them again."""
        parts = (split.images for split in (dataset.train, dataset.validation, dataset.test) if split)
        used = {os.fsdecode(name) for images in parts for name in images.names}
        names = {name for name, _ in self._lines[0] if Path(name).parent.name in dataset.class_names}
        self._passed_over |= names - used  # They are counted already.
        self._lines[0] = [file for file in self._lines[0] if file[0] not in names - used]

    def _arrived(self, dataset: Dataset, say: Callable[[str], None]) -> list[tuple[str, int]]:
        """The files of the run's classes that no epoch has seen yet, and that can be used."""
        known = {name for line in self._lines for name, _ in line}
        classes = {Path(name).parent.name for name, _ in self._lines[0]}
        held_out = len(dataset.test.labels) and not has_test_part(self._root)
        found = []
        for name, files in pictures_in(self._root / self._below):
            if name in dataset.class_names:
                below = ((os.path.join(self._below, name, file), size) for file, size in files)
                found += [file for file in below if file[0] not in known]
            elif name not in classes:
                self._warn(say, name, f"{self._root / self._below / name}: the run knows no such class")
        if held_out:  # A picture stays in its part, whenever it comes.
            found = [file for file in found if not in_test_part(os.path.relpath(file[0], self._below or "."))]
        pictures = _of(dataset.train.images, found)
        arrived = []
        for row, file in enumerate(found):
            try:
                pictures.read(row)
            except InputError as error:  # It may still be being written: the next epoch looks again.
                self._warn(say, file[0], str(error).partition("; ")[0])
            else:
                arrived.append(file)
        if arrived:
            say(f"{len(arrived):,} pictures arrived; {len(known) + len(arrived):,} in all")
        return arrived

    def _warn(self, say: Callable[[str], None], name: str, why: str) -> None:
        if name not in self._passed_over:
            self._passed_over.add(name)
            say(f"warning: {why}; it is passed over")

    def _check(self, name: str, size: int) -> None:
        path = self._root / name
        try:
            now = path.stat().st_size
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({reason(error)}); the run took it in, and needs it to go on"
            ) from None
        if now != size:
            raise InputError(f"{path}: has {now} bytes; it had {size} when the run took it in")


def began_with(lines: list[list[tuple[str, int]]], names: Sequence[str]) -> list[bool]:
    """Which of the files the run of this record began with."""
    first = {name for name, _ in lines[0]}
    return [name in first for name in names]


def arrivals_of(spec: Spec, folder: RunFolder) -> Arrivals | None:
    """The arrivals of a run, if it follows its pictures."""
    root = spec.data_dir
    return Arrivals(folder, root, spec.resume) if spec.follow and root is not None and root.is_dir() else None


def _of(like: Pictures, files: list[tuple[str, int]]) -> Pictures:
    """The same folder with these files."""
    names, sizes = [os.fsencode(name) for name, _ in files], [size for _, size in files]
    return dataclasses.replace(like, names=np.array(names, dtype=bytes), sizes=np.array(sizes, np.int64))
