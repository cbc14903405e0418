"""The IDX format of MNIST's files: magic number, sizes, then bytes; gzipped or not."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from nag_optax.train.data.parts import content_of, existing_folder
from nag_optax.train.errors import InputError
from nag_optax.train.rows import Request, Split, Splits


def load(request: Request) -> Splits:
    """MNIST, Fashion-MNIST, EMNIST and every other set of four IDX files. EMNIST's mapping names classes."""
    folder = existing_folder(request, "the four IDX files")
    train = Split(*read_idx_pair(folder, "train"))
    test_prefixes = ("t10k", "test")
    missing = request.train_only and not _candidates(folder, test_prefixes, "images", "idx3")
    test = train.take([]) if missing else Split(*read_idx_pair(folder, *test_prefixes))
    return Splits(train, test, _names(folder))


def read_idx_pair(folder: Path, *prefixes: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, height, width, channels) uint8 and labels (N,) int32 of one split."""
    images_path = _find(folder, prefixes, "images", "idx3")
    labels_path = _find(folder, prefixes, "labels", "idx1")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim not in (3, 4) or labels.shape != images.shape[:1] or not images.size:
        raise InputError(
            f"{labels_path}: holds labels of shape {labels.shape}, and {images_path.name} images of shape "
            f"{images.shape}; must be (N,), and (N, height, width) or (N, height, width, channels)"
        )
    if images.ndim == 3:
        images = images[..., None]
    return images, labels.astype(np.int32)


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file."""
    content = content_of(path)
    try:
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: is damaged ({error}); fetch the file again") from None
    if content[:3] != b"\0\0\x08" or len(content) < (start := 4 + 4 * content[3]):
        raise InputError(
            f"{path}: is no IDX file of unsigned bytes; it must begin with 0, 0 and 8, gzipped or not"
        )
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise InputError(
            f"{path}: holds {len(content) - start} bytes of values, but its header says {math.prod(shape)}; "
            "fetch the file again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _names(folder: Path) -> tuple[str, ...] | None:
    """The names of EMNIST's classes. Its mapping has a line for each label, with its code points."""
    paths = list(folder.glob("*-mapping.txt"))
    if len(paths) != 1:
        return None
    try:
        lines = [list(map(int, line.split())) for line in paths[0].read_text().splitlines()]
        names = {label: "".join(map(chr, codes)) for label, *codes in lines}
    except ValueError:
        raise InputError(f"{paths[0]}: must hold a label and code points in each line") from None
    return tuple(names.get(label, str(label)) for label in range(max(names, default=-1) + 1))


def _candidates(folder: Path, prefixes: tuple[str, ...], what: str, kind: str) -> list[Path]:
    names = [f"*{prefix}-{what}[-.]{kind}-ubyte{end}" for prefix in prefixes for end in ("", ".gz")]
    return sorted({path for name in names for path in folder.glob(name)})


def _find(folder: Path, prefixes: tuple[str, ...], what: str, kind: str) -> Path:
    found = _candidates(folder, prefixes, what, kind)
    # The same file, gzipped and not, is one.
    stems = {path.name.removesuffix(".gz") for path in found}
    if len(stems) > 1:
        raise InputError(
            f"--data-dir {folder}: holds several sets ({', '.join(sorted(stems))}); "
            "put one in a folder of its own"
        )
    if not found:
        raise InputError(f"--data-dir {folder}: {prefixes[0]}-{what}-{kind}-ubyte[.gz] is missing")
    return found[0]
