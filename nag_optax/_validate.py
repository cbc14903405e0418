"""Checks of arguments: what Python can see is checked, what is traced or on a device passes."""

from typing import Any, TypeGuard

import jax
import numpy as np


def is_python_number(value: object) -> TypeGuard[int | float | np.number]:
    """True for numbers that Python may branch on; False for arrays, which may be traced."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def check_number(
    name: str,
    value: Any,
    *,
    minimum: float,
    below: float = float("inf"),
    or_else: str = "",
) -> None:
    """Raises unless `value` is a scalar that is not known to lie outside [minimum, below).

    `or_else` names what else the argument takes, for the message alone.
    """
    allowed = f"a number in [{minimum:g}, {below:g}){or_else}"
    if isinstance(value, np.ndarray | jax.Array):
        if value.ndim != 0:
            raise ValueError(f"{name} must be {allowed}; got an array of shape {value.shape}")
    elif not is_python_number(value):
        raise TypeError(f"{name} must be {allowed}; got {value!r} of type {type(value).__name__}")
    elif not minimum <= float(value) < below:
        raise ValueError(f"{name} must be {allowed}; got {value}")
