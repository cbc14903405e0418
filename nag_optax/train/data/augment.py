"""Augmentation inside the compiled step: pure functions of a key and a batch (B, height, width, channels)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

SMALL = 64
"""An image of at most so many pixels a side is small. A crop of it keeps a quarter of its area at least."""


def crop_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image moved by up to an eighth of its side, and mirrored left to right every other time.

    ```
    y[i, j] = x[r(i + a), r(±j + b)]    a, b uniform whole numbers in [−side // 8, side // 8]
    ```

    r reflects at the border, as the fast CIFAR recipes pad; an eighth of CIFAR's 32 pixels is the usual 4.

    Source: He, Zhang, Ren, Sun, *Deep residual learning for image recognition*, CVPR 2016, section 4.2;
    reflection as in Jordan, *94% on CIFAR-10 in 3.29 seconds on a single GPU*, 2024.
    """
    flip_key, *move_keys = jax.random.split(key, 3)
    rows, columns = (
        _moved(key, len(images), size) for key, size in zip(move_keys, images.shape[1:3], strict=True)
    )
    flipped = jax.random.bernoulli(flip_key, shape=(len(images), 1))
    columns = jnp.where(flipped, columns[:, ::-1], columns)
    # One gather, by image: on a mesh each device reads its own images alone.
    return jax.vmap(lambda image, row, column: image[row[:, None], column])(images, rows, columns)


def resized_crop(key: jax.Array, images: jax.Array) -> jax.Array:
    """A rectangle of each image, resized to the image's size, and mirrored every other time.

    The rectangle has a share of the area uniform in [0.08, 1], in [0.25, 1] for images of at most 64
    pixels, and a ratio of width to height log-uniform in [3/4, 4/3]; a side longer than the image's is cut.

    Source: Szegedy and others, *Going deeper with convolutions*, CVPR 2015, section 6.
    """
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


AUGMENTATIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "crop-flip": crop_flip,
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


def _moved(key: jax.Array, count: int, size: int) -> jax.Array:
    """(count, size): the rows, or columns, of each image that take the places 0, 1, …"""
    most = size // 8
    moves = jax.random.randint(key, (count, 1), -most, most + 1)
    place = jnp.abs(jnp.arange(size) + moves)
    return size - 1 - jnp.abs(size - 1 - place)
