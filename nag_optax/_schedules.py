"""What a number or a schedule is at a step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nag_optax._validate import is_python_number


def at_step(
    name: str, value: jax.typing.ArrayLike | optax.Schedule, count: jax.typing.ArrayLike
) -> jax.Array:
    """A number, or what a schedule gives at this step, in float32 or wider. `name` is for errors."""
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
