"""A folder of pictures: train/<class>/* and test or val, or <class>/* alone."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nag_optax.train.data.parts import existing_folder, in_test_part
from nag_optax.train.data.pictures import SUFFIXES, Pictures, Undecodable, decode, fitting, in_threads, sample
from nag_optax.train.errors import InputError
from nag_optax.train.rows import Request, Split, Splits

_LOOKED_AT = 256
"""So many pictures give the size and the colours of all, where all do not fit."""


class _File(NamedTuple):
    name: str
    """The path below the folder of the data."""
    folder: str
    """The name of its class."""
    size: int


def load(request: Request) -> Splits:
    """The pictures, decoded if they fit. Without a test part, a hash of the name holds out one sixth."""
    root = existing_folder(request, "a folder of pictures for each class")
    below = "train" if (root / "train").is_dir() else ""
    test_part = _test_part(root)
    if test_part is not None and not below:
        raise InputError(f"--data-dir {root}: holds {test_part}, but no train/CLASS/pictures")
    others: list[str] = []
    train, test = list(_files(root, below, others)), []
    among = request.among([file.name for file in train], [file.size for file in train])
    train = [file for file, yes in zip(train, among, strict=True) if yes]
    if test_part is not None:
        test = list(_files(root, test_part, others))
        differ = {file.folder for file in train} ^ {file.folder for file in test}
        if differ and request.labels is None:
            raise InputError(
                f"{root}: {below} and {test_part} must hold folders of the same classes; "
                f"one of them lacks {', '.join(sorted(differ)[:5])}"
            )
    elif not request.train_only:
        held_out = [in_test_part(file.name[len(below) :].lstrip("/")) for file in train]
        test = [file for file, out in zip(train, held_out, strict=True) if out]
        train = [file for file, out in zip(train, held_out, strict=True) if not out]
    if others:
        request.say(left_out(others))
    files = train + test
    numbers = dict(request.labels or {})
    for name in sorted({file.folder for file in files}):
        numbers.setdefault(name, max(numbers.values(), default=-1) + 1)
    names = {number: name for name, number in numbers.items()}
    images, readable = _images(request, root, files)
    both = Split(images, np.array([numbers[file.folder] for file in files], np.int32))
    is_train = np.arange(len(files)) < len(train)
    class_names = tuple(names.get(i, str(i)) for i in range(max(names) + 1))
    return Splits(both.take(is_train & readable), both.take(~is_train & readable), class_names)


def has_test_part(root: Path) -> bool:
    """Whether there are folders of test pictures."""
    return _test_part(root) is not None


def pictures_in(folder: Path) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """The name of each class, and the names and sizes of its pictures. Other files do not count."""
    for place in _entries(folder):
        if place.is_dir():
            yield place.name, [(e.name, _size(e)) for e in _entries(place.path) if _is_picture(e)]


def _test_part(root: Path) -> str | None:
    return next((name for name in ("test", "val") if (root / name).is_dir()), None)


def left_out(others: Sequence[str | Path]) -> str:
    """A line on the files whose extensions are not read."""
    files = "1 file is" if len(others) == 1 else f"{len(others):,} files are"
    return f"{files} left out, {others[0]} first; pictures end in {', '.join(SUFFIXES)}"


def not_decoded(count: int, total: int, first: Path) -> str:
    """A line on the pictures that --skip-unreadable leaves out."""
    return f"{count} of {total} pictures cannot be decoded and are left out, {first} first"


def _files(root: Path, below: str, others: list[str]) -> Iterator[_File]:
    """The pictures of each class in the order of their names. The paths of other files go to `others`."""
    folder = root / below
    classes = []
    for entry in _entries(folder):
        if entry.is_dir():
            classes.append(entry)
        elif _is_picture(entry):
            raise InputError(
                f"{entry.path}: must stand in the folder of its class, {folder.name}/CLASS/{entry.name}"
            )
    if not classes:
        raise InputError(f"{folder}: holds no folder of a class; must hold CLASS/pictures")
    for place in classes:
        pictures = []
        for entry in _entries(place.path):
            if entry.is_dir():
                raise InputError(
                    f"{entry.path}: is a folder in the folder of a class; move its pictures to {place.path}"
                )
            if _is_picture(entry):
                pictures.append(entry)
            else:
                others.append(entry.path)
        if not pictures:
            raise InputError(
                f"{place.path}: holds no pictures ({', '.join(SUFFIXES)}); add some, or remove it"
            )
        for entry in pictures:
            yield _File(os.path.join(below, place.name, entry.name), place.name, _size(entry))


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in SUFFIXES


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # A link to nowhere, which is said when it is decoded.
        return 0


def _images(request: Request, root: Path, files: list[_File]) -> tuple[Pictures, np.ndarray]:
    """The pictures, decoded if all fit, and which of them can be used. Otherwise a few are looked at."""
    paths, readable = [root / file.name for file in files], np.ones(len(files), bool)
    size = request.image_size
    first = next((p for p in (decode(path, size) for path in paths) if isinstance(p, np.ndarray)), None)
    if first is None:
        raise InputError(f"--data-dir {root}: none of its {len(paths)} pictures can be decoded")
    height, width, channels = first.shape
    keep = request.fits(3 * height * width * len(paths))
    # What cannot be decoded is left out before the first step, so that all batches are known.
    rows = np.arange(len(paths)) if keep or request.skip_unreadable else sample(len(paths), _LOOKED_AT)
    pixels = np.zeros((len(paths) if keep else 0, *first.shape), np.uint8)
    with closing(in_threads(lambda i: decode(paths[rows[i]], size), len(rows))) as decoded:
        watched = request.watch(decoded, len(rows), "decoding pictures" if keep else "looking at pictures")
        for row, picture in zip(rows, watched, strict=True):
            if request.skip_unreadable and isinstance(picture, Undecodable):
                readable[row] = False
                continue
            picture = fitting(paths[row], picture, height, width)
            if picture.shape[2] > channels:
                channels, pixels = 3, np.repeat(pixels, 3, axis=3)  # The first one in colour.
            if keep:
                pixels[row] = picture
    if not readable.all():
        request.say(not_decoded((~readable).sum(), len(paths), paths[int(readable.argmin())]))
    names, sizes = [os.fsencode(file.name) for file in files], [file.size for file in files]
    shape = (height, width, channels)
    return Pictures(root, np.array(names), np.array(sizes), shape, size, pixels if keep else None), readable
