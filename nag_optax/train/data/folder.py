"""A folder of pictures: train/<class>/* and test or val, or <class>/* alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nag_optax.train.data.parts import existing_folder, in_test_part
from nag_optax.train.data.pictures import SUFFIXES, Undecodable, decode
from nag_optax.train.errors import InputError
from nag_optax.train.rows import Request, Split, Splits

_CHUNK = 64  # Files a task: one task a file costs as much as a small picture.


class _Part(NamedTuple):
    paths: list[Path]
    labels: list[int]


def load(request: Request) -> Splits:
    """The pictures, decoded; without a test part, one sixth is held out by a hash of class and name."""
    root = existing_folder(request, "train/CLASS/pictures")
    train_root = root / "train" if (root / "train").is_dir() else root
    test_root = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if test_root is not None and train_root == root:
        raise InputError(f"--data-dir {root}: holds {test_root.name}, but no train/CLASS/pictures")
    names, train = _scan(train_root)
    if test_root is not None:
        test_names, test = _scan(test_root)
        if names != test_names:
            differ = ", ".join(sorted(set(names) ^ set(test_names))[:5])
            raise InputError(
                f"{root}: {train_root.name} and {test_root.name} must hold folders of the same classes; "
                f"one of them lacks {differ}"
            )
    else:
        chosen = [in_test_part(path.relative_to(train_root).as_posix()) for path in train.paths]
        train, test = (_where(train, [c == part for c in chosen]) for part in (False, True))
    images, readable = _decode(request, train.paths + test.paths)
    labels = np.array(train.labels + test.labels, np.int32)
    count = len(train.paths)
    if not readable.all():
        images, labels, count = images[readable], labels[readable], readable[:count].sum()
    return Splits(Split(images[:count], labels[:count]), Split(images[count:], labels[count:]), names)


def _where(part: _Part, chosen: list[bool]) -> _Part:
    rows = [i for i, yes in enumerate(chosen) if yes]
    return _Part([part.paths[i] for i in rows], [part.labels[i] for i in rows])


def _scan(folder: Path) -> tuple[tuple[str, ...], _Part]:
    """The names of the classes, and the pictures of each in the order of their names."""
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if loose := [path for path in inside if path.suffix.lower() in SUFFIXES and path.is_file()]:
        raise InputError(
            f"{loose[0]}: must stand in the folder of its class, {folder.name}/CLASS/{loose[0].name}"
        )
    classes = [path for path in inside if path.is_dir()]
    if not classes:
        raise InputError(f"{folder}: holds no folder of a class; must hold CLASS/pictures")
    part = _Part([], [])
    for label, path in enumerate(classes):
        pictures = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        if deeper := [p for p in pictures if p.is_dir()]:
            raise InputError(
                f"{deeper[0]}: is a folder in the folder of a class; pictures must stand right in {path}"
            )
        pictures = [p for p in pictures if p.suffix.lower() in SUFFIXES]
        if not pictures:
            raise InputError(f"{path}: holds no pictures ({', '.join(SUFFIXES)}); add some, or remove it")
        part.paths.extend(pictures)
        part.labels.extend([label] * len(pictures))
    return tuple(path.name for path in classes), part


def _decode(request: Request, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, height, width, 1 or 3), and whether each one could be decoded."""

    def decode_some(start: int) -> list[np.ndarray | Undecodable]:
        return [decode(path, request.image_size) for path in paths[start : start + _CHUNK]]

    images = np.zeros((0, 0, 0, 0), np.uint8)
    unreadable: list[int] = []
    # Threads: decoding a large picture and reading a file leave the interpreter free.
    with ThreadPoolExecutor() as pool:
        chunks = pool.map(decode_some, range(0, len(paths), _CHUNK))
        decoded = (image for chunk in chunks for image in chunk)
        for i, image in enumerate(request.watch(decoded, len(paths), "decoding pictures")):
            if isinstance(image, Undecodable):
                if not request.skip_unreadable:
                    raise InputError(
                        f"{paths[i]}: cannot be decoded ({image}); remove it, or say --skip-unreadable"
                    )
                unreadable.append(i)
                continue
            height, width, channels = image.shape
            if not len(images):
                images = np.zeros((len(paths), height, width, channels), np.uint8)
            if (height, width) != images.shape[1:3]:
                first = next(path for j, path in enumerate(paths) if j not in unreadable)
                raise InputError(
                    f"{paths[i]}: is of {width} x {height} pixels, {first} of "
                    f"{images.shape[2]} x {images.shape[1]}; say --image-size N for pictures of N x N"
                )
            if channels > images.shape[3]:
                images = np.repeat(images, 3, axis=3)  # The first one in colour.
            images[i] = image
    if not len(images):
        raise InputError(f"--data-dir {request.data_dir}: none of its {len(paths)} pictures can be decoded")
    if unreadable:
        request.say(
            f"{len(unreadable)} of {len(paths)} pictures cannot be decoded and are left out, "
            f"{paths[unreadable[0]]} first"
        )
    readable = np.ones(len(paths), bool)
    readable[unreadable] = False
    return images, readable
