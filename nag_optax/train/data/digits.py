"""The digits that come with scikit-learn."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from nag_optax.train.rows import Request, Split, Splits


def load(_: Request) -> Splits:
    """scikit-learn's 1797 digits of 8×8 pixels in 0 to 16; a fifth of each class is held out."""
    pixels, labels = load_digits(return_X_y=True)
    everything = Split(pixels.astype(np.uint8).reshape(-1, 8, 8, 1), labels.astype(np.int32))
    # A fixed split: the seed of a run must not choose its exam.
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=everything.labels, random_state=0
    )
    return Splits(everything.take(train), everything.take(test))
