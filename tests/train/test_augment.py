"""Augmentation: each output is what NumPy makes of some drawn numbers, and these have their distribution."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax.train.data.augment import (
    alternating_flip,
    augmentation_key,
    crop_flip,
    mixed,
    mixing_share,
    resized_crop,
)
from tests.helpers import exhaustive

KEY = jax.random.key(0)


@pytest.mark.parametrize(("size", "width", "most"), [(7, 6, 0), (8, 9, 1), (16, 17, 2)])
def test_crop_flip_moves_by_an_eighth_at_most_over_a_reflected_border_and_mirrors_half(size, width, most):
    images = np.random.default_rng(0).integers(0, 256, (900, size, width, 2)).astype(np.uint8)
    out = np.asarray(crop_flip(KEY, jnp.asarray(images), 0))
    assert out.dtype == np.uint8 and out.shape == images.shape
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    seen = np.zeros(900, int)
    counts = []
    for top, left, flip in itertools.product(range(2 * most + 1), range(2 * most + 1), (False, True)):
        window = padded[:, top : top + size, left : left + width]
        same = (out == (window[:, :, ::-1] if flip else window)).all((1, 2, 3))
        seen += same
        counts.append(same.sum())
    assert (seen == 1).all()  # Each image is one of its own windows.
    mean = 900 / len(counts)
    assert np.abs(np.array(counts) - mean).max() < 4.5 * np.sqrt(mean)  # A Poisson count, 4.5 deviations.


def test_alternating_flip_moves_by_a_sixteenth_and_shows_every_image_from_both_sides_in_turn():
    images = np.random.default_rng(0).integers(0, 256, (400, 16, 33, 2)).astype(np.uint8)
    images[1] = images[0]

    def windows(epoch: int, key: jax.Array, images: np.ndarray) -> np.ndarray:
        """(N, 3, 5, 2): which of its own windows, mirrored or not, each image is."""
        out = np.asarray(alternating_flip(key, jnp.asarray(images), epoch))
        assert out.dtype == images.dtype
        padded = np.pad(images, ((0, 0), (1, 1), (2, 2), (0, 0)), mode="reflect")
        found = np.zeros((len(images), 3, 5, 2), bool)
        for top, left, flip in itertools.product(range(3), range(5), (0, 1)):
            window = padded[:, top : top + 16, left : left + 33]
            found[:, top, left, flip] = (out == (window[:, :, ::-1] if flip else window)).all((1, 2, 3))
        assert (found.sum((1, 2, 3)) == 1).all()
        return found

    keys = jax.random.split(KEY, 3)
    first, second, third = (windows(i, key, images) for i, key in enumerate(keys))
    sides = [found.any((1, 2)).argmax(1) for found in (first, second, third)]
    np.testing.assert_array_equal(sides[0], 1 - sides[1])
    np.testing.assert_array_equal(sides[0], sides[2])
    assert sides[0][0] == sides[0][1]  # It depends on the image alone,
    np.testing.assert_array_equal(windows(0, keys[2], images[::-1])[::-1].any((1, 2)).argmax(1), sides[0])
    assert 150 < sides[0].sum() < 250  # 200 ± 5 deviations of √100
    places = first.sum((0, 3))
    assert np.abs(places - 400 / 15).max() < 4.5 * np.sqrt(400 / 15)  # A Poisson count, 4.5 deviations.
    floats = images.astype(np.float32) / 255
    np.testing.assert_array_equal(*(windows(i, KEY, floats).any((1, 2)).argmax(1) for i in (1, 3)))


@pytest.mark.parametrize(("height", "width", "least"), [(24, 65, 0.08), exhaustive(24, 32, 0.25)])
def test_resized_crop_samples_a_rectangle_of_the_drawn_area_and_ratio(height, width, least):
    """An image of its own coordinates shows where each pixel was taken from."""
    coordinates = np.indices((height, width)).transpose(1, 2, 0).astype(np.uint8)
    out = np.asarray(resized_crop(KEY, jnp.asarray(np.tile(coordinates, (600, 1, 1, 1))), 0), np.float64)
    assert out.shape == (600, height, width, 2)
    # In the middle no sample is beyond the border, and the coordinates are straight lines.
    i, j = height // 2, width // 2
    steps = out[:, i, j, 0] - out[:, i - 1, j, 0], out[:, i, j, 1] - out[:, i, j - 1, 1]
    flipped = steps[1] < 0
    assert 240 < flipped.sum() < 360  # 300 ± 5 deviations of √150
    tall, wide = np.abs(steps[0]) * height, np.abs(steps[1]) * width
    column = np.where(flipped, width - 1 - j, j)
    top = out[:, i, j, 0] + 0.5 - (i + 0.5) * tall / height
    left = out[:, i, j, 1] + 0.5 - (column + 0.5) * wide / width
    for start, side, size in ((top, tall, height), (left, wide, width)):
        assert start.min() > -1e-3 and (start + side).max() < size + 1e-3
    # Every pixel is on the grid of its rectangle; beyond the border the last pixel is repeated.
    rows = (np.arange(height) + 0.5) * tall[:, None] / height + top[:, None] - 0.5
    np.testing.assert_allclose(out[:, :, j, 0], rows.clip(0, height - 1), atol=2e-3)
    columns = (np.arange(width) + 0.5) * wide[:, None] / width + left[:, None] - 0.5
    columns = np.where(flipped[:, None], columns[:, ::-1], columns)
    np.testing.assert_allclose(out[:, i, :, 1], columns.clip(0, width - 1), atol=2e-3)
    # Sides that are not cut have the area and the ratio that were drawn.
    whole = (tall < height - 1e-2) & (wide < width - 1e-2)
    share, ratio = (tall * wide / (height * width))[whole], (wide / tall)[whole]
    assert least < share.min() < least + 0.02
    assert 3 / 4 < ratio.min() < 0.77 and 1.3 < ratio.max() < 4 / 3
    assert np.ptp(top[~flipped]) > height / 3 and np.ptp(left[flipped]) > width / 3


def test_mixup_is_the_larger_share_of_an_image_and_the_rest_of_its_partner():
    shares = np.asarray(jax.vmap(lambda key: mixing_share(key, 0.4))(jax.random.split(KEY, 2000)))
    drawn = np.random.default_rng(0).beta(0.4, 0.4, 200_000)
    larger = np.maximum(drawn, 1 - drawn)
    assert shares.min() >= 0.5 and shares.max() <= 1
    for power in (1, 2):  # Four deviations of a mean of 2000.
        tolerance = 4 * (larger**power).std() / np.sqrt(2000)
        np.testing.assert_allclose((shares**power).mean(), (larger**power).mean(), atol=tolerance)
    images = np.random.default_rng(1).normal(size=(5, 2, 3, 1)).astype(np.float32)
    expected = [0.75 * images[k] + 0.25 * images[4 - k] for k in range(5)]
    np.testing.assert_allclose(mixed(jnp.asarray(images), jnp.float32(0.75)), expected, rtol=1e-6)


def test_the_keys_of_a_step_are_its_own_and_none_of_the_dropout_of_thousands_of_layers():
    keys = [augmentation_key(KEY, "image"), augmentation_key(KEY, "mixup"), KEY]
    layers = jax.vmap(lambda count: jax.random.key_data(jax.random.fold_in(KEY, count)))(jnp.arange(10_000))
    every = np.concatenate([np.asarray(layers), *(np.asarray(jax.random.key_data(k))[None] for k in keys)])
    assert len(np.unique(every, axis=0)) == 10_003
