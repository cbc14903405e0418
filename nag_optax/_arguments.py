"""Checks of arguments. Values that Python can see are checked; traced ones, or ones on a device, pass."""

import inspect
import math
from ctypes import c_float
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
import optax

_LARGEST = float(np.finfo(np.float32).max)


def is_python_number(value: object) -> TypeGuard[int | float | np.number]:
    """True for numbers that Python may branch on; False for arrays, which may be traced."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def check_number(
    name: str,
    value: Any,
    *,
    minimum: float,
    below: float = float("inf"),
    open_minimum: bool = False,
    closed: bool = False,
    integer: bool = False,
    or_else: str = "",
) -> None:
    """Raises unless `value` is a scalar that is not known to lie outside [minimum, below).

    Unless x64 is enabled, neither may it lie outside as the float32 that it will be. With `open_minimum`
    the minimum itself is outside, with `closed` the upper end is inside; `or_else` names what else the
    argument takes, for the message alone.
    """
    kind, left = "an integer" if integer else "a number", "(" if open_minimum else "["
    allowed = f"{kind} in {left}{minimum:.10g}, {below:.10g}{']' if closed else ')'}{or_else}"
    if isinstance(value, np.ndarray | jax.Array):
        if value.ndim != 0:
            raise ValueError(f"{name} must be {allowed}; got an array of shape {value.shape}")
        if not any(jnp.issubdtype(value.dtype, real) for real in (jnp.integer, jnp.floating)):
            raise TypeError(f"{name} must be {allowed}; got an array of dtype {value.dtype}")
    elif not is_python_number(value) or (integer and not isinstance(value, int | np.integer)):
        raise TypeError(f"{name} must be {allowed}; got {value!r} of type {type(value).__name__}")
    else:

        def inside(number: float) -> bool:
            above = number > minimum or (number == minimum and not open_minimum)
            return above and (number < below or (closed and number == below))

        number = float(value)
        if not inside(number):
            raise ValueError(f"{name} must be {allowed}; got {value}")
        if not integer and _is_narrow() and not inside(c_float(number).value):
            raise ValueError(
                f"{name} must be {allowed}; got {value}, which is {c_float(number).value:g} in float32"
            )


def check_schedule(
    name: str,
    value: Any,
    *,
    minimum: float,
    below: float = float("inf"),
    closed: bool = False,
    or_else: str = " or an Optax schedule",
) -> None:
    """As `check_number`, for what may be an Optax schedule as well: a function of the step alone."""
    if not callable(value):
        check_number(name, value, minimum=minimum, below=below, closed=closed, or_else=or_else)
        return
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # Some that are not written in Python have none.
        return
    try:
        signature.bind(0)
    except TypeError as error:
        raise TypeError(
            f"{name} must be a number{or_else}; {getattr(value, '__name__', repr(value))} is no schedule, "
            f"because it cannot be called with the step alone: {error}"
        ) from None


def check_numbers(name: str, tree: Any, *, minimum: float = -math.inf, finite: bool = True) -> None:
    """Raises unless each leaf is a real number or array that is not known to lie below `minimum`.

    NaN is refused too, and infinity where `finite`. NumPy's arrays are looked into, JAX's are not.
    """
    bounds = (f"[{minimum:g}, " if minimum > -math.inf else "(-inf, ") + "inf)" if finite else "[-inf, inf]"
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        where = name + jax.tree_util.keystr(path)
        allowed = f"{where} must be a real number in {bounds}, an array or a tree of them"
        is_array = isinstance(leaf, np.ndarray | jax.Array)
        if not (is_array or is_python_number(leaf)):
            raise TypeError(f"{allowed}; got {leaf!r} of type {type(leaf).__name__}")
        dtype = jax.numpy.result_type(leaf)
        if not (jax.numpy.issubdtype(dtype, np.floating) or jax.numpy.issubdtype(dtype, np.integer)):
            raise TypeError(f"{allowed}; got dtype {dtype}")
        if isinstance(leaf, jax.Array):
            continue
        inside = (leaf >= minimum) & (leaf < math.inf if finite else leaf <= math.inf)
        if finite:
            inside &= leaf > -math.inf
        if not np.all(inside):
            raise ValueError(f"{allowed}; got {leaf}")
        if finite and _is_narrow() and not np.all(np.abs(leaf) <= _LARGEST):
            raise ValueError(f"{allowed}; got {leaf}, which is infinite in float32")


def _is_narrow() -> bool:
    """Whether a Python number becomes a float32."""
    return jax.numpy.result_type(float) == np.float32


def check_flags(name: str, tree: Any) -> None:
    """Raises unless each leaf may stand for True or False. Text may not: it is always true."""
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, bool | int | np.generic | np.ndarray | jax.Array):
            raise TypeError(
                f"{name} must be a tree of booleans, or a function of the parameters that gives one; "
                f"got {leaf!r} of type {type(leaf).__name__}"
            )


def check_mask(name: str, mask: Any) -> None:
    """Raises where one boolean stands for a whole mask: `inject_hyperparams` may have called a function."""
    if _is_scalar(mask):
        raise TypeError(
            f"{name} must be a tree of booleans, or a function of the parameters that gives one; "
            f"got {mask!r} alone{hint_of_injection(mask)}"
        )


def hint_of_injection(value: Any) -> str:
    """Advice for a scalar in place of a function or a dtype: `inject_hyperparams` calls both."""
    if not _is_scalar(value):
        return ""
    return (
        ". optax.inject_hyperparams takes whatever can be called for a schedule, and calls it with the step: "
        "name this argument in its static_args"
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0


def at_step(
    name: str, value: jax.typing.ArrayLike | optax.Schedule, count: jax.typing.ArrayLike
) -> jax.Array:
    """A number, or the value of a schedule at this step, in float32 or wider. `name` is for errors."""
    return jnp.asarray(scheduled_value(name, value, count) if callable(value) else value, float)


def scheduled_value(name: str, schedule: optax.Schedule, count: jax.typing.ArrayLike) -> Any:
    """schedule(count), which must be a real scalar: `optax.sgd` can be called with a number, too."""
    value: Any = schedule(count)
    is_scalar = isinstance(value, np.ndarray | jax.Array | np.bool_ | bool) and np.ndim(value) == 0
    if not (is_scalar or is_python_number(value)) or np.iscomplexobj(value):
        shown = (
            f"an array of {value.dtype}{list(value.shape)}"
            if isinstance(value, np.ndarray | jax.Array)
            else repr(value)
        )
        raise TypeError(
            f"{name} must be a number or a function of the step that returns one, as an Optax schedule does; "
            f"{getattr(schedule, '__name__', repr(schedule))} returned "
            f"{shown if len(shown) < 80 else 'a ' + type(value).__name__}"
        )
    return value


def buffer_dtype(dtype: jax.typing.DTypeLike | None, name: str = "accumulator_dtype") -> jnp.dtype | None:
    if dtype is None:
        return None
    allowed = f"{name} must be a floating or complex dtype, or None"
    # Checked before NumPy sees it, which takes a scalar for its own dtype.
    if hint := hint_of_injection(dtype):
        raise ValueError(f"{allowed}; got {dtype!r}{hint}")
    try:
        dtype = jnp.dtype(dtype)
    except TypeError:
        raise ValueError(f"{allowed}; got {dtype!r}") from None
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"{allowed}; got {dtype}")
    return dtype
