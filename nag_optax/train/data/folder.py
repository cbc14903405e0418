"""A folder of pictures: train/<class>/* and test or val, or <class>/* alone."""

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from nag_optax.train.data.parts import existing_folder, in_test_part
from nag_optax.train.data.pictures import SUFFIXES, Pictures, check_size, decode, in_threads, packed, sample
from nag_optax.train.errors import InputError
from nag_optax.train.rows import File, Request, Split, Splits

_LOOKED_AT = 256
"""So many pictures give the size and the colours of all, where all do not fit."""


def load(request: Request) -> Splits:
    """The pictures, decoded if they fit. Without a test part, a hash of the name holds out one sixth."""
    root = existing_folder(request, "a folder of pictures for each class")
    below, test_part = "train" if (root / "train").is_dir() else "", test_part_of(root)
    others: list[str] = []
    train, test = request.among(_files(root, below, others)), []
    if test_part is not None:
        test = _files(root, test_part, others)
        differ = set(map(class_of, train)) ^ set(map(class_of, test))
        if differ and request.labels is None:
            raise InputError(
                f"{root}: {below or 'it'} and {test_part} must hold folders of the same classes; "
                f"one of them lacks {', '.join(sorted(differ)[:5])}"
            )
    elif not request.train_only:
        test = [file for file in train if is_held_out(file, below)]
        train = [file for file in train if not is_held_out(file, below)]
    if others:
        request.say(left_out(others))
    numbers = dict(request.labels or {})
    for name in sorted(set(map(class_of, train + test))):
        numbers.setdefault(name, max(numbers.values(), default=-1) + 1)
    names = {number: name for name, number in numbers.items()}
    class_names = tuple(names.get(i, str(i)) for i in range(max(names) + 1))
    chosen = request.chosen(list(names), class_names)  # No other picture is decoded.
    train, test = ([file for file in part if numbers[class_of(file)] in chosen] for part in (train, test))
    files = train + test
    images, readable = _images(request, root, files)
    both = Split(images, np.array([numbers[class_of(file)] for file in files], np.int32))
    is_train = np.arange(len(files)) < len(train)
    return Splits(both.take(is_train & readable), both.take(~is_train & readable), class_names)


def test_part_of(root: Path) -> str | None:
    """The folder of test pictures, if there is one."""
    return next((name for name in ("test", "val") if (root / name).is_dir()), None)


def class_of(file: File) -> str:
    return file[0].split("/")[-2]


def is_held_out(file: File, below: str) -> bool:
    """Whether a picture goes into the test part where there are no test pictures."""
    return in_test_part(file[0].removeprefix(f"{below}/"))


def pictures_in(root: Path, below: str) -> dict[str, tuple[list[File], list[os.DirEntry[str]]]]:
    """The pictures of each class in the order of their names, and what else is in its folder."""
    found = {}
    for place in _entries(root / below):
        if place.is_dir():
            entries = _entries(place.path)
            path = f"{below}/{place.name}" if below else place.name
            pictures = [(f"{path}/{e.name}", _size(e)) for e in entries if _is_picture(e)]
            found[place.name] = pictures, [e for e in entries if not _is_picture(e)]
    return found


def left_out(others: Sequence[str | Path]) -> str:
    """A line on the files whose extensions are not read."""
    files = "1 file is" if len(others) == 1 else f"{len(others):,} files are"
    return f"{files} left out, {others[0]} first; pictures end in {', '.join(SUFFIXES)}"


def not_decoded(count: int, total: int, first: Path) -> str:
    """A line on the pictures that --skip-unreadable leaves out."""
    return f"{count} of {total} pictures cannot be decoded and are left out, {first} first"


def _files(root: Path, below: str, others: list[str]) -> list[File]:
    """All pictures, where each folder is that of a class. The paths of other files go to `others`."""
    folder, found = root / below, pictures_in(root, below)
    if not found or any(map(_is_picture, _entries(folder))):
        raise InputError(f"{folder}: must hold a folder of pictures for each class, and no other pictures")
    for name, (pictures, rest) in found.items():
        if not pictures or any(entry.is_dir() for entry in rest):
            raise InputError(f"{folder / name}: must hold pictures ({', '.join(SUFFIXES)}), and no folders")
        others += [entry.path for entry in rest]
    return [file for pictures, _ in found.values() for file in pictures]


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in SUFFIXES and not entry.is_dir()


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # A link to nowhere, which is said when it is decoded.
        return 0


def _images(request: Request, root: Path, files: list[File]) -> tuple[Pictures, np.ndarray]:
    """The pictures, decoded if all fit, and which of them can be used. Otherwise a few are looked at."""
    size, usable = request.image_size, np.ones(len(files), bool)

    def look(row: int) -> np.ndarray | InputError:
        try:
            return decode(root / files[row][0], size)
        except InputError as error:
            return error

    first = next((p for p in map(look, range(len(files))) if isinstance(p, np.ndarray)), None)
    if first is None:
        raise InputError(f"--data-dir {root}: none of its {len(files)} pictures can be decoded")
    height, width, channels = first.shape
    keep = request.fits(3 * height * width * len(files))
    # What cannot be decoded is left out before the first step, so that all batches are known.
    rows = np.arange(len(files)) if keep or request.skip_unreadable else sample(len(files), _LOOKED_AT)
    pixels = np.zeros((len(files) if keep else 0, *first.shape), np.uint8)
    with closing(in_threads(lambda i: look(rows[i]), len(rows))) as decoded:
        watched = request.watch(decoded, len(rows), "decoding pictures" if keep else "looking at pictures")
        for row, picture in zip(rows, watched, strict=True):
            if isinstance(picture, InputError):
                if not request.skip_unreadable:
                    raise InputError(*picture.args)  # Itself, it would keep alive what this frame holds.
                usable[row] = False
                continue
            check_size(root / files[row][0], picture, height, width)
            if picture.shape[2] > channels:
                channels, pixels = 3, np.repeat(pixels, 3, axis=3)  # The first one in colour.
            if keep:
                pixels[row] = picture
    if not usable.all():
        request.say(not_decoded((~usable).sum(), len(files), root / files[usable.argmin()][0]))
    shape = (height, width, channels)
    return Pictures(root, *packed(files), shape, size, pixels if keep else None), usable
