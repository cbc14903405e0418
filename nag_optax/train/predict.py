"""`nag-optax predict`: the probabilities of each class for pictures and arrays, as a CSV."""

import csv
import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image
from rich.console import Console

from nag_optax.train.data import as_float32
from nag_optax.train.data.arrays import read_numpy
from nag_optax.train.data.folder import left_out, not_decoded
from nag_optax.train.data.pictures import SUFFIXES, decode
from nag_optax.train.errors import InputError, collected_signals, reason
from nag_optax.train.options import PredictOptions
from nag_optax.train.progress import busy, say, watched
from nag_optax.train.trained import Trained, load

_AT_ONCE = 256


def predict(options: PredictOptions) -> None:
    """Writes a CSV with a line for each image: its name, its class and the probability of each class."""
    console = Console(stderr=True)  # The CSV has standard output to itself.
    with collected_signals():
        files = [file for path in options.paths for file in _files(path, partial(say, console))]
        if not files:
            raise InputError("PATH is missing: name pictures, folders of them, or .npy files")
        with busy(console, "reading the model"):
            trained = load(options.run_dir, device=options.device, say=partial(say, console))
        left = [] if options.skip_unreadable else None
        images = _images(watched(console, files, len(files), "classifying files"), trained, left)
        with _opened(options.output) as stream:
            rows = csv.writer(stream, lineterminator="\n")
            header = ["name", "class", *trained.class_names]
            while piece := list(islice(images, _AT_ONCE)):
                probabilities = trained.predict(np.stack([image for _, image in piece]))
                if header:  # Not before there is a result.
                    rows.writerow(header)
                    header = None
                for (name, _), row in zip(piece, probabilities, strict=True):
                    rows.writerow([name, trained.class_names[row.argmax()], *(f"{p:.6g}" for p in row)])
        if left:
            say(console, not_decoded(len(left), len(files), left[0]))


def _files(path: Path, tell: Callable[[str], None]) -> list[Path]:
    """The file, or the pictures below the folder, in the order of their names."""
    if not path.is_dir():
        return [path]
    # As in training, links are followed, and nothing hidden is taken.
    names = glob.iglob("**", root_dir=path, recursive=True)
    files = sorted(file for file in map(path.joinpath, names) if file.is_file())
    found = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(f"{path}: holds no pictures; they end in {', '.join(SUFFIXES)}")
    if others := [file for file in files if file.suffix.lower() not in SUFFIXES]:
        tell(left_out(others))
    return found


def _images(
    files: Iterable[Path], trained: Trained, left: list[Path] | None
) -> Iterator[tuple[str, np.ndarray]]:
    """The name of each image, and its pixels in the shape that the model takes.

    A file that cannot be decoded goes to `left`, or is an error if that is None.
    """
    for file in files:
        if file.suffix.lower() == ".npy":
            images = np.atleast_1d(read_numpy(file))
            for start in range(0, max(1, len(images)), _AT_ONCE):  # Resized ones may be large.
                piece = trained.shaped(images[start : start + _AT_ONCE], str(file))
                for i, image in enumerate(as_float32(piece, str(file)), start):
                    yield f"{file}[{i}]", image
            continue
        height, width, channels = trained.image_shape
        try:
            pixels = decode(file, height if height == width else None)
        except InputError:
            if left is None:
                raise
            left.append(file)
            continue
        if pixels.shape[:2] != (height, width):
            raise InputError(
                f"{file}: has {pixels.shape[1]} x {pixels.shape[0]} pixels; the run takes {width} x {height}"
            )
        if channels == 1 < pixels.shape[2]:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        pixels = (trained.black + (trained.white - trained.black) * (pixels / 255)).astype(np.float32)
        yield str(file), np.broadcast_to(pixels, trained.image_shape)


@contextmanager
def _opened(path: Path | None) -> Iterator[IO[str]]:
    """Standard output, or the file, which is complete at the end or as it was."""
    if path is None:
        yield sys.stdout
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            yield stream
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"--output {path}: cannot be written ({reason(error)})") from None
    finally:
        partial.unlink(missing_ok=True)
