"""One picture file as an array of bytes."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nag_optax.train.errors import reason

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L")


class Undecodable(str):
    """Why a file cannot be decoded."""


def decode(path: Path, size: int | None = None) -> np.ndarray | Undecodable:
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
    except Image.UnidentifiedImageError:
        return Undecodable("it is no JPEG, PNG, WebP or BMP file")
    # What Pillow's decoders raise for damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        return Undecodable(reason(error))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        grey, image = image.mode.startswith("L"), image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("L" if grey else "RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
