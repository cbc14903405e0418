"""Arrays in one .npz file."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from nag_optax.train.data.parts import in_test_part, readable
from nag_optax.train.errors import InputError
from nag_optax.train.rows import Request, Split, Splits

_KEYS = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)


def load(request: Request) -> Splits:
    """Images and labels under either of two sets of keys. Without a test part, one sixth is held out."""
    path = request.data_dir or Path()
    otherwise = f"--data-dir {path}: is no .npz file of numbers; it must be one that numpy.savez wrote"
    arrays = read_numpy(path, otherwise)
    if isinstance(arrays, np.ndarray):  # of a .npy file
        raise InputError(otherwise)
    keys = next((keys for keys in _KEYS if set(keys[:2]) <= set(arrays)), None)
    if keys is None:
        raise InputError(
            f"--data-dir {path}: holds {', '.join(arrays) or 'nothing'}; "
            f"must hold {', '.join(_KEYS[0])} or {', '.join(_KEYS[1])}, where the last two may be missing"
        )
    train = _split(path, arrays, *keys[:2])
    if set(keys[2:]) <= set(arrays):
        return Splits(train, _split(path, arrays, *keys[2:]))
    if request.train_only:
        return Splits(train, train.take([]))
    held_out = np.array([in_test_part(str(i)) for i in range(len(train.labels))])
    return Splits(train.take(~held_out), train.take(held_out))


def _split(path: Path, arrays: dict[str, np.ndarray], images_key: str, labels_key: str) -> Split:
    images, labels = arrays[images_key], arrays[labels_key]
    if labels.ndim == 2 and labels.shape[1] == 1:  # As Keras has those of CIFAR.
        labels = labels[:, 0]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype.kind not in "uif" or not images.size:
        raise InputError(
            f"--data-dir {path}: {images_key} has shape {arrays[images_key].shape} of {images.dtype}; "
            "must be numbers of shape (N, height, width) or (N, height, width, channels)"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "ui" or labels.min(initial=0) < 0:
        raise InputError(
            f"--data-dir {path}: {labels_key} has shape {labels.shape} of {labels.dtype}; must be a whole "
            f"number of at least 0 for each of the {len(images)} images"
        )
    if images.dtype != np.uint8:
        images = as_float32(images, f"--data-dir {path}: {images_key}")
    return Split(images, labels.astype(np.int32))


def read_numpy(path: Path, otherwise: str) -> Any:
    """The array of a .npy file, or those of an .npz file by their names; else an error says `otherwise`."""
    try:
        with readable(), path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else dict(content)
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile):  # NumPy's own text is of pickles.
        raise InputError(otherwise) from None


def as_float32(images: np.ndarray, where: str) -> np.ndarray:
    """The images in float32, if it holds them."""
    if not (np.abs(images) <= np.finfo(np.float32).max).all():
        raise InputError(f"{where}: holds values that are no finite float32")
    return images.astype(np.float32)
