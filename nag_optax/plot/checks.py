"""Checks of the data to draw."""

from typing import Any

import numpy as np


def as_numbers(name: str, value: Any) -> np.ndarray:
    """The value as floats.

    Raises:
        TypeError: if it holds anything but numbers, or lists of different lengths.
    """
    try:
        return np.asarray(value, float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of numbers; got {type(value).__name__}: {error}") from None
