"""The part of the training images that chooses: fixed, apart from the others, and not of the test split."""

import numpy as np

from nag_optax.compare.images import hold_out
from nag_optax.train.data import load_dataset
from nag_optax.train.options import Options
from nag_optax.train.spec import resolve


def rows(split) -> list[bytes]:
    return [image.tobytes() + label.tobytes() for image, label in zip(*split, strict=True)]


def test_a_sixth_of_the_training_images_is_held_out_in_their_order():
    dataset = load_dataset(resolve(Options()))
    search = hold_out(dataset)
    train, validation = rows(search.train), rows(search.test)
    assert (len(train), len(validation)) == (1437 - 239, 239)
    assert sorted(train + validation) == sorted(rows(dataset.train))
    assert not set(validation) & {*train, *rows(dataset.test)}
    assert rows(hold_out(dataset).test) == validation
    order = {row: i for i, row in enumerate(rows(dataset.train))}
    assert [order[row] for row in train] == sorted(order[row] for row in train)


def test_images_are_standardised_by_those_that_train():
    search = hold_out(load_dataset(resolve(Options())))
    images = np.asarray(search.statistics.standardise(search.train.images), np.float64)
    # Sums of 76,672 numbers of order 1 that float32 rounds.
    np.testing.assert_allclose([images.mean(), images.std()], [0, 1], atol=1e-6)


def test_of_a_few_images_one_is_held_out():
    dataset = load_dataset(resolve(Options()))
    few = dataset._replace(
        train=dataset.train._replace(images=dataset.train.images[:3], labels=dataset.train.labels[:3])
    )
    assert len(hold_out(few).test.labels) == 1 and len(hold_out(few).train.labels) == 2
