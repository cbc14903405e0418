"""The folder of the files, and a test part where a source has none."""

import hashlib
from pathlib import Path

import numpy as np

from nag_optax.train.errors import InputError
from nag_optax.train.rows import Request, Split


def existing_folder(request: Request, content: str) -> Path:
    """The folder of --data-dir, which must hold `content`."""
    folder = request.data_dir or Path()
    if folder.is_file():
        raise InputError(f"--data-dir {folder}: is a file; name the folder that holds {content}")
    if not folder.is_dir():
        raise InputError(f"--data-dir {folder}: no such folder; it must hold {content}")
    return folder


def empty(split: Split) -> Split:
    """A part without images, of the same shape."""
    return Split(split.images[:0], split.labels[:0])


def in_test_part(name: str) -> bool:
    """Whether a hash puts the name into the test part, one sixth. Other pictures may come and go."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % 6 == 0


def split_by_hash(images: np.ndarray, labels: np.ndarray, names: list[str]) -> tuple[Split, Split]:
    """The training and the test part, in the order of the names."""
    held_out = np.array([in_test_part(name) for name in names], bool)
    return (Split(images[~held_out], labels[~held_out]), Split(images[held_out], labels[held_out]))
