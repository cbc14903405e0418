"""--follow: pictures that arrive in the training folder while a run goes on, and the record of them.

`pictures.jsonl` has a line an epoch, with the names and sizes of the files that it was the first to see; the
first line has those that the run began with. A line is written before the epoch begins, and never changed:
a run that is resumed has the pictures of the record, in its order, whatever else has arrived since.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nag_optax.train.data import Dataset
from nag_optax.train.data.folder import class_of, is_held_out, pictures_in, test_part_of
from nag_optax.train.data.parts import readable
from nag_optax.train.data.pictures import packed
from nag_optax.train.errors import InputError
from nag_optax.train.folder import PICTURES, RunFolder
from nag_optax.train.loop import Loop
from nag_optax.train.rows import File, Split
from nag_optax.train.spec import Spec


class Arrivals:
    """The pictures of each epoch of a run."""

    def __init__(self, spec: Spec, folder: RunFolder):
        self._folder, self._root = folder, (root := spec.data_dir or Path())
        self._below = "train" if (root / "train").is_dir() else ""
        self._lines: list[list[File]] = folder.pictures() if spec.resume else []
        self._passed_over: set[str] = set()
        self._num_known = 0
        for name, size in (file for line in self._lines for file in line):
            with readable():
                now = (root / name).stat().st_size
            if now != size:
                raise InputError(f"{root / name}: has {now} bytes; it had {size} when the run took it in")

    def among(self, files: list[File]) -> list[File]:
        """Those of the files in the folder that the run began with."""
        if not self._lines:
            self._lines = [files]
        return began_with(self._lines, files)

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
        images, labels = dataset.train
        files = zip((images.names, images.sizes), packed(arrived), strict=True)
        names, sizes = map(np.concatenate, files)
        new = [dataset.class_names.index(class_of(file)) for file in arrived]
        grown = Split(
            dataclasses.replace(images, names=names, sizes=sizes),
            np.concatenate([labels, np.array(new, np.int32)]),
        )
        loop.grow(grown, (latest, len(self._lines[latest])))

    def _forget_unreadable(self, dataset: Dataset) -> None:
        """Takes the files out that --skip-unreadable left out: the next epoch looks at them again."""
        parts = (split.images for split in (dataset.train, dataset.validation, dataset.test) if split)
        used = {os.fsdecode(name) for images in parts for name in images.names}
        left = {
            file for file in self._lines[0] if class_of(file) in dataset.class_names and file[0] not in used
        }
        self._passed_over |= {name for name, _ in left}  # They are counted already.
        self._lines[0] = [file for file in self._lines[0] if file not in left]

    def _arrived(self, dataset: Dataset, say: Callable[[str], None]) -> list[File]:
        """The files of the run's classes that no epoch has seen yet, and that can be used."""
        known = {name for line in self._lines for name, _ in line}
        found = []
        for name, (files, _) in pictures_in(self._root, self._below).items():
            if name in dataset.class_names:
                found += [file for file in files if file[0] not in known]
            elif name not in map(class_of, self._lines[0]):
                self._warn(say, name, f"{self._root / self._below / name}: the run knows no such class")
        if len(dataset.test.labels) and not test_part_of(self._root):  # A picture stays in its part.
            found = [file for file in found if not is_held_out(file, self._below)]
        names, sizes = packed(found)
        pictures = dataclasses.replace(dataset.train.images, names=names, sizes=sizes)
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


def began_with(lines: list[list[File]], files: list[File]) -> list[File]:
    """Those of the files that the run of this record began with."""
    first = {name for name, _ in lines[0]}
    return [file for file in files if file[0] in first]
