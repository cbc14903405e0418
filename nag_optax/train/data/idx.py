"""The IDX format of MNIST's files: magic number, sizes, then bytes; gzipped or not."""

import gzip
import re
from pathlib import Path

import numpy as np

from nag_optax.train.data.parts import existing_folder, readable
from nag_optax.train.errors import InputError
from nag_optax.train.rows import Request, Split, Splits

_TEST = ("t10k", "test")


def load(request: Request) -> Splits:
    """MNIST, Fashion-MNIST, EMNIST and every other set of four IDX files. EMNIST's mapping names classes."""
    folder = existing_folder(request, "the four IDX files")
    missing = request.train_only and not _found(folder, "images", _TEST)
    test = None if missing else read_idx_pair(folder, *_TEST)
    return Splits(read_idx_pair(folder, "train"), test, _names(folder))


def read_idx_pair(folder: Path, *prefixes: str) -> Split:
    """The images and labels of one split, whose files have one of these prefixes."""
    return Split(*(read_idx(_file(folder, what, prefixes)) for what in ("images", "labels")))


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file."""
    with readable(path):
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        if not content.startswith(b"\0\0\x08"):
            raise ValueError("it is no IDX file of unsigned bytes")
        shape = np.frombuffer(content, ">u4", content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)


def _names(folder: Path) -> tuple[str, ...] | None:
    """The names of EMNIST's classes. Its mapping has a line for each label, with its code points."""
    paths = list(folder.glob("*-mapping.txt"))
    if len(paths) != 1:
        return None
    with readable(paths[0]):
        lines = [list(map(int, line.split())) for line in paths[0].read_text().splitlines()]
        names = {label: "".join(map(chr, codes)) for label, *codes in lines}
    return tuple(names.get(label, str(label)) for label in range(max(names, default=-1) + 1))


def _found(folder: Path, what: str, prefixes: tuple[str, ...]) -> dict[str, Path]:
    """The files of these images or labels. The same one, gzipped and not, is one."""
    pattern = re.compile(rf".*({'|'.join(prefixes)})-{what}[-.]idx\d-ubyte(\.gz)?")
    paths = sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))
    return {path.name.removesuffix(".gz"): path for path in paths}


def _file(folder: Path, what: str, prefixes: tuple[str, ...]) -> Path:
    found = _found(folder, what, prefixes)
    if len(found) != 1:
        raise InputError(
            f"--data-dir {folder}: must hold one file {prefixes[0]}-{what}-idx*-ubyte[.gz]; "
            f"it holds {', '.join(found) or 'none'}"
        )
    return next(iter(found.values()))
