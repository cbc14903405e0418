"""Picture files as one array: an index takes some of them, and NumPy decodes them when it asks for pixels."""

import dataclasses
import os
import struct
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from nag_optax.train.errors import InputError, reason
from nag_optax.train.rows import File

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L")


def decode(path: Path, size: int | None = None) -> np.ndarray:
    """The picture upright, grey or in RGB: (height, width, 1 or 3) uint8.

    A size of N scales the shorter side to N pixels, and keeps the N x N in the middle. Transparent pixels
    become white. Of sixteen bits the upper eight are kept.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if size is not None:
                # A JPEG file is decoded at a fraction of its size, of at least twice the size asked for.
                image.draft(None, (2 * size, 2 * size))
            picture = _grey_or_rgb(ImageOps.exif_transpose(image))
            if size is not None and picture.size != (size, size):
                picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(picture)
    # What Pillow's decoders raise for damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        known = not isinstance(error, Image.UnidentifiedImageError)
        why = reason(error) if known else "it is no JPEG, PNG, WebP or BMP file"
        advice = "" if isinstance(error, FileNotFoundError) else "; remove it, or say --skip-unreadable"
        raise InputError(f"{path}: cannot be decoded ({why}){advice}") from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        grey, image = image.mode.startswith("L"), image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("L" if grey else "RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


_CHUNK = 64  # Files a task: one task a file costs as much as a small picture.


@dataclasses.dataclass(frozen=True)
class Pictures:
    """An array (N, height, width, channels) of uint8.

    Attributes:
        root: the folder of all files.
        names: the names of the files below it, as bytes, which take a quarter of NumPy's texts.
        sizes: the sizes of the files in bytes.
        image_shape: (height, width, channels) of each picture.
        image_size: the side to which pictures are scaled, or None.
        pixels: the decoded pictures, once there are any.
    """

    root: Path
    names: np.ndarray
    sizes: np.ndarray
    image_shape: tuple[int, int, int]
    image_size: int | None = None
    pixels: np.ndarray | None = None

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.names), *self.image_shape)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Any) -> "Pictures":
        pixels = None if self.pixels is None else self.pixels[rows]
        return dataclasses.replace(self, names=self.names[rows], sizes=self.sizes[rows], pixels=pixels)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.decoded(), dtype)

    def decoded(self, watch: Callable[[Iterable[Any], int, str], Iterable[Any]] | None = None) -> np.ndarray:
        """The pixels, decoded in threads; `watch` is that of a `Request`."""
        if self.pixels is not None:
            return self.pixels
        images = np.empty(self.shape, np.uint8)
        with closing(in_threads(self.read, len(self))) as pictures:
            watched = pictures if watch is None else watch(pictures, len(self), "decoding pictures")
            for row, picture in enumerate(watched):
                images[row] = picture
        return images

    def read(self, row: int) -> np.ndarray:
        """One picture, decoded. It must have the size and the colours of the others."""
        path, (height, width, channels) = self.root / os.fsdecode(self.names[row]), self.image_shape
        picture = decode(path, self.image_size)
        check_size(path, picture, height, width)
        if picture.shape[2] > channels:
            raise InputError(
                f"{path}: is in colour, the pictures that were looked at first are grey; "
                "say --skip-unreadable, which looks at all of them first"
            )
        return np.broadcast_to(picture, self.image_shape)


def packed(files: Sequence[File]) -> tuple[np.ndarray, np.ndarray]:
    """The names of the files, as bytes, and their sizes, for `Pictures`."""
    names = np.array([os.fsencode(name) for name, _ in files], bytes)
    return names, np.array([size for _, size in files], np.int64)


def sample(count: int, size: int) -> np.ndarray:
    """The rows of at most `size` of `count` examples, always the same ones."""
    return np.sort(np.random.default_rng(0).permutation(count)[:size])


def check_size(path: Path, picture: np.ndarray, height: int, width: int) -> None:
    """Refuses a picture that has not the size of the others."""
    if picture.shape[:2] != (height, width):
        raise InputError(
            f"{path}: has {picture.shape[1]} x {picture.shape[0]} pixels, the others have "
            f"{width} x {height}; say --image-size N for pictures of N x N"
        )


def in_threads(function: Callable[[int], Any], count: int) -> Generator[Any]:
    """The results of a function for 0, 1, …, in this order, until the generator is closed.

    Threads are enough, as decoding a large picture and reading a file leave the interpreter free.
    """

    def some(start: int) -> list[Any]:
        return [function(i) for i in range(start, min(start + _CHUNK, count))]

    pool = ThreadPoolExecutor()
    try:
        for chunk in pool.map(some, range(0, count, _CHUNK)):
            yield from chunk
    finally:
        pool.shutdown(cancel_futures=True)
