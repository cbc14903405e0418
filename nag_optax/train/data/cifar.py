"""The binary files of CIFAR-10 and CIFAR-100: labels in bytes, then the red, green and blue planes."""

from pathlib import Path

import numpy as np

from nag_optax.train.data.parts import existing_folder, readable
from nag_optax.train.errors import InputError
from nag_optax.train.rows import Request, Split, Splits


def load_10(request: Request) -> Splits:
    """CIFAR-10: data_batch_1.bin to data_batch_5.bin, test_batch.bin; a record begins with its label."""
    train = [f"data_batch_{i}.bin" for i in range(1, 6)]
    return _load(request, train, "test_batch.bin", "batches.meta.txt", "cifar-10-batches-bin", 1)


def load_100(request: Request) -> Splits:
    """CIFAR-100: train.bin and test.bin; a record begins with a coarse label, which is not used."""
    return _load(request, ["train.bin"], "test.bin", "fine_label_names.txt", "cifar-100-binary", 2)


def _load(request: Request, train: list[str], test: str, names: str, archive: str, num_labels: int) -> Splits:
    folder = existing_folder(request, f"{train[0]} and {test}")
    if (folder / archive).is_dir():  # The folder into which the archive was unpacked.
        folder /= archive
    parts = [_read(folder / name, num_labels) for name in train]
    missing = request.train_only and not (folder / test).exists()
    return Splits(
        Split(*map(np.concatenate, zip(*parts, strict=True))),
        None if missing else _read(folder / test, num_labels),
        tuple((folder / names).read_text().split()) if (folder / names).exists() else None,
    )


def _read(path: Path, num_labels: int) -> Split:
    if not path.exists() and path.with_suffix("").is_file():
        raise InputError(
            f"{path.with_suffix('')}: is of the version for Python, whose pickles can run any code; "
            f"take the binary version, which holds {path.name}"
        )
    with readable(path):
        records = np.fromfile(path, np.uint8).reshape(-1, num_labels + 3 * 32 * 32)
    images = records[:, num_labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), records[:, num_labels - 1])
