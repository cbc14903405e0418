"""The binary files of CIFAR-10 and CIFAR-100: labels in bytes, then the red, green and blue planes."""

from pathlib import Path

import numpy as np

from nag_optax.train.data.parts import content_of, existing_folder
from nag_optax.train.errors import InputError
from nag_optax.train.rows import Request, Split, Splits

_PIXELS = 3 * 32 * 32


def load_10(request: Request) -> Splits:
    """CIFAR-10: data_batch_1.bin to data_batch_5.bin, test_batch.bin; a record begins with its label."""
    train = [f"data_batch_{i}.bin" for i in range(1, 6)]
    return _load(request, train, "test_batch.bin", "batches.meta.txt", "cifar-10-batches-bin", 10, 1)


def load_100(request: Request) -> Splits:
    """CIFAR-100: train.bin and test.bin; a record begins with a coarse label, which is not used."""
    return _load(request, ["train.bin"], "test.bin", "fine_label_names.txt", "cifar-100-binary", 100, 2)


def _load(
    request: Request, train: list[str], test: str, names: str, archive: str, classes: int, num_labels: int
) -> Splits:
    folder = existing_folder(request, f"{train[0]} and {test}")
    if (folder / archive).is_dir():  # The folder into which the archive was unpacked.
        folder /= archive
    parts = [_read(folder / name, classes, num_labels) for name in train]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    split = Split(images, labels)
    if request.train_only and not (folder / test).exists():
        held_out = split.take([])
    else:
        held_out = Split(*_read(folder / test, classes, num_labels))
    return Splits(split, held_out, _names(folder / names, classes))


def _read(path: Path, classes: int, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    if not path.exists() and path.with_suffix("").is_file():
        raise InputError(
            f"{path.with_suffix('')}: is of the version for Python, whose pickles can run any code; "
            f"take the binary version, which holds {path.name}"
        )
    content = np.frombuffer(content_of(path), np.uint8)
    if not content.size or content.size % (num_labels + _PIXELS):
        raise InputError(
            f"{path}: holds {content.size} bytes, no multiple of the {num_labels + _PIXELS} bytes "
            "of a record; fetch the file again"
        )
    records = content.reshape(-1, num_labels + _PIXELS)
    labels = records[:, num_labels - 1]
    if labels.max() >= classes:
        raise InputError(f"{path}: holds the label {labels.max()}; must be below {classes}")
    images = records[:, num_labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels.astype(np.int32)


def _names(path: Path, classes: int) -> tuple[str, ...] | None:
    names = tuple(path.read_text().split()) if path.is_file() else ()
    return names if len(names) == classes else None
