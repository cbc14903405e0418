"""Augmentation inside the compiled step: pure functions of a key and a batch (B, height, width, channels)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

SMALL = 64
"""An image of at most so many pixels a side is small. A crop of it keeps a quarter of its area at least."""


def crop_flip(key: jax.Array, images: jax.Array, epoch: jax.typing.ArrayLike) -> jax.Array:
    """Each image moved by up to an eighth of its side, and mirrored left to right every other time.

    ```
    y[i, j] = x[r(i + a), r(±j + b)]    a, b uniform whole numbers in [−side // 8, side // 8]
    ```

    r reflects at the border, as the fast CIFAR recipes pad; an eighth of CIFAR's 32 pixels is the usual 4.

    Source: He, Zhang, Ren, Sun, *Deep residual learning for image recognition*, CVPR 2016, section 4.2;
    reflection as in Jordan, *94% on CIFAR-10 in 3.29 seconds on a single GPU*, 2024.
    """
    del epoch
    flip_key, *move_keys = jax.random.split(key, 3)
    return _cropped(images, move_keys, 8, jax.random.bernoulli(flip_key, shape=(len(images),)))


def alternating_flip(key: jax.Array, images: jax.Array, epoch: jax.typing.ArrayLike) -> jax.Array:
    """Each image moved by up to a sixteenth of its side, and mirrored left to right in every other epoch.

    Half of the images begin with the epoch 0, the others with the epoch 1. A hash of its pixels tells which.
    So an image is never seen twice in a row from the same side, as it often is where a coin decides.

    Source: Jordan, *94% on CIFAR-10 in 3.29 seconds on a single GPU*, 2024, section 3.6.
    """
    pixels = jax.lax.bitcast_convert_type(images.astype(jnp.float32), jnp.uint32)
    # Whole numbers: their sum has no rounding that could differ from program to program.
    sums = jnp.sum(pixels, (1, 2, 3), dtype=jnp.uint32)
    first = jax.vmap(lambda total: jax.random.bits(jax.random.key(total)) % 2)(sums)
    return _cropped(images, jax.random.split(key), 16, (first + jnp.asarray(epoch, jnp.uint32)) % 2 == 0)


def resized_crop(key: jax.Array, images: jax.Array, epoch: jax.typing.ArrayLike) -> jax.Array:
    """A rectangle of each image, resized to the image's size, and mirrored every other time.

    The rectangle has a share of the area uniform in [0.08, 1], in [0.25, 1] for images of at most 64
    pixels, and a ratio of width to height log-uniform in [3/4, 4/3]; a side longer than the image's is cut.

    Source: Szegedy and others, *Going deeper with convolutions*, CVPR 2015, section 6.
    """
    del epoch
    shape = images.shape[1:]
    size = jnp.array(shape[:2], jnp.float32)
    least = 0.25 if max(shape[:2]) <= SMALL else 0.08

    def of_one(key: jax.Array, image: jax.Array) -> jax.Array:
        area_key, ratio_key, place_key, flip_key = jax.random.split(key, 4)
        area = jax.random.uniform(area_key, minval=least) * size.prod()
        ratio = jnp.exp(jax.random.uniform(ratio_key, minval=-1, maxval=1) * jnp.log(4 / 3))
        sides = jnp.minimum(jnp.sqrt(jnp.stack([area / ratio, area * ratio])), size)
        corner = jax.random.uniform(place_key, (2,)) * (size - sides)
        scale = size / sides
        cut = jax.image.scale_and_translate(
            image.astype(jnp.float32), shape, (0, 1), scale, -corner * scale, "linear"
        )
        return jnp.where(jax.random.bernoulli(flip_key), cut[:, ::-1], cut)

    return jax.vmap(of_one)(jax.random.split(key, len(images)), images)


Augment = Callable[[jax.Array, jax.Array, jax.typing.ArrayLike], jax.Array]
"""Takes the key of a step, its images and its epoch, counted from 0."""

AUGMENTATIONS: dict[str, Augment] = {
    "crop-flip": crop_flip,
    "alternating-flip": alternating_flip,
    "resized-crop": resized_crop,
}


def mixing_share(key: jax.Array, alpha: float) -> jax.Array:
    """λ of a batch: the larger of l and 1 − l, l drawn from Beta(α, α).

    The partner of a batch is the batch in reverse, so 1 − l gives the batch of l in another order. Nothing
    is lost, and an image's own label is always the larger part of its mixture.
    """
    share = jax.random.beta(key, alpha, alpha)
    return jnp.maximum(share, 1 - share)


def mixed(images: jax.Array, share: jax.Array) -> jax.Array:
    """λ·x + (1 − λ)·x in reverse order.

    Source: Zhang, Cisse, Dauphin, Lopez-Paz, *mixup: beyond empirical risk minimization*, ICLR 2018.
    """
    return share * images + (1 - share) * images[::-1]


def augmentation_key(step_key: jax.Array, purpose: str) -> jax.Array:
    """A key for "image" or "mixup" of the step's key, from which dropout draws its own, 0, 1, 2, …"""
    return jax.random.fold_in(step_key, 2**31 - 1 - ("image", "mixup").index(purpose))


def _cropped(images: jax.Array, keys: Any, share: int, flipped: jax.Array) -> jax.Array:
    """Each image moved by at most a share of its side, over a reflected border; those `flipped`, mirrored."""
    rows, columns = (
        _moved(key, len(images), size, size // share)
        for key, size in zip(keys, images.shape[1:3], strict=True)
    )
    columns = jnp.where(flipped[:, None], columns[:, ::-1], columns)
    # One gather, by image: on a mesh each device reads its own images alone.
    return jax.vmap(lambda image, row, column: image[row[:, None], column])(images, rows, columns)


def _moved(key: jax.Array, count: int, size: int, most: int) -> jax.Array:
    """(count, size): the rows, or columns, of each image that take the places 0, 1, …"""
    moves = jax.random.randint(key, (count, 1), -most, most + 1)
    place = jnp.abs(jnp.arange(size) + moves)
    return size - 1 - jnp.abs(size - 1 - place)
