"""Arrays in one .npz file."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from nag_optax.train.data.parts import readable
from nag_optax.train.errors import InputError
from nag_optax.train.rows import Request, Split, Splits

_KEYS = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)


def load(request: Request) -> Splits:
    """Images and labels under either of two sets of keys. Those of the test part may be missing."""
    path = request.data_dir or Path()
    arrays = read_numpy(path)
    held = list(arrays) if isinstance(arrays, dict) else ["one array without a name"]
    keys = next((keys for keys in _KEYS if set(keys[:2]) <= set(held)), None)
    if keys is None:
        raise InputError(
            f"--data-dir {path}: holds {', '.join(held) or 'nothing'}; "
            f"must hold {', '.join(_KEYS[0])} or {', '.join(_KEYS[1])}, where the last two may be missing"
        )
    images, labels, test_images, test_labels = map(arrays.get, keys)
    has_test = test_images is not None and test_labels is not None
    return Splits(Split(images, labels), Split(test_images, test_labels) if has_test else None)


def read_numpy(path: Path) -> Any:
    """The array of a .npy file, or those of an .npz file by their names."""
    try:
        with readable(), path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else dict(content)
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile):  # NumPy's own text is of pickles.
        raise InputError(f"{path}: is no file of numbers that numpy.save or numpy.savez wrote") from None
