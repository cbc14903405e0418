"""The files of --data-dir, and the parts of a dataset that a source does not have: test and validation."""

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nag_optax.train.errors import InputError, reason
from nag_optax.train.rows import Request, Split


def existing_folder(request: Request, content: str) -> Path:
    """The folder of --data-dir, which must hold `content`."""
    folder = request.data_dir or Path()
    if not folder.is_dir():
        raise InputError(f"--data-dir {folder}: is no folder; it must be one that holds {content}")
    return folder


@contextmanager
def readable(path: Path | None = None) -> Iterator[None]:
    """An InputError names the file that cannot be read: this one, or the one that the system names."""
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if (where := getattr(error, "filename", None) or path) is None:
            raise
        raise InputError(f"{where}: cannot be read ({reason(error)})") from None


def in_test_part(name: str) -> bool:
    """Whether a hash puts the name into the test part, one sixth. Other pictures may come and go."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) % 6 == 0


def split_off(split: Split, count: int) -> tuple[Split, Split]:
    """The rest of a split, and a part of `count` images. Both have at least one.

    The part depends on the two numbers of images alone: no seed of a run chooses its own exam.
    """
    chosen = np.zeros(len(split.labels), bool)
    chosen[np.random.default_rng(0).permutation(len(chosen))[: min(max(1, count), len(chosen) - 1)]] = True
    return split.take(~chosen), split.take(chosen)
