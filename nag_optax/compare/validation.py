"""The part of the training images that chooses the learning rates."""

import numpy as np

from nag_optax.train.data import Dataset, statistics_of
from nag_optax.train.rows import Split

PARTS = 6
"""One image of so many is held out."""


def hold_out(dataset: Dataset) -> Dataset:
    """What a search trains on: a fixed part of the training images stands in place of the test split.

    The part depends on the number of images alone, so that every search of a dataset has the same, and no
    seed of a run chooses its exam.
    """
    count = len(dataset.train.labels)
    held_out = np.zeros(count, bool)
    held_out[np.random.default_rng(0).permutation(count)[: max(1, count // PARTS)]] = True
    validation, train = (Split(*(array[rows] for array in dataset.train)) for rows in (held_out, ~held_out))
    return dataset._replace(train=train, test=validation, **statistics_of(train.images)._asdict())
