"""Arrays in one .npz file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from nag_optax.train.data.parts import empty, split_by_hash
from nag_optax.train.errors import InputError
from nag_optax.train.rows import Request, Split, Splits

_KEYS = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)


def load(request: Request) -> Splits:
    """Images and labels under either of two sets of keys; without a test part, one sixth is held out."""
    path = request.data_dir or Path()
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):  # of a .npy file
                raise ValueError
            arrays = dict(loaded)
    except OSError as error:
        raise InputError(f"--data-dir {path}: cannot be read ({error})") from None
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile):
        raise InputError(
            f"--data-dir {path}: is no .npz file of numbers; it must be one that numpy.savez wrote"
        ) from None
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
        return Splits(train, empty(train))
    return Splits(*split_by_hash(*train, [str(i) for i in range(len(train.labels))]))


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
    if labels.ndim != 1 or labels.dtype.kind not in "ui" or labels.min(initial=0) < 0:
        raise InputError(f"--data-dir {path}: {labels_key} must hold one whole number of at least 0 an image")
    if len(images) != len(labels):
        raise InputError(
            f"--data-dir {path}: {labels_key} holds {len(labels)} labels, but {images_key} "
            f"{len(images)} images; the counts must be equal"
        )
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
    if not np.isfinite(images).all():
        raise InputError(f"--data-dir {path}: {images_key} holds values that are no finite float32")
    return Split(images, labels.astype(np.int32))
