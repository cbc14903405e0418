"""Bounds on each coordinate, whose prox is the projection: nonnegative, box."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nag_optax._arguments import check_numbers, is_python_number
from nag_optax.prox.base import Prox, prefix_leaves
from nag_optax.prox.leafwise import leafwise


def nonnegative() -> Prox:
    """The constraint z ≥ 0, whose prox is the projection.

    ```
    g(z) = 0 if z ≥ 0 else inf        prox(p)ᵢ = max(pᵢ, 0)
    ```

    Returns:
        A `Prox` for real parameters.

    Example:
        >>> import jax.numpy as jnp, nag_optax
        >>> nag_optax.prox.nonnegative()(jnp.array([1.5, -2.0]), 1.0)
        Array([1.5, 0. ], dtype=float32)

    Source: Parikh and Boyd, *Proximal algorithms*, 2014, section 6.2.
    """
    return _nonnegative()


@leafwise(penalty=lambda z: jnp.all(z >= 0), real=True, exact=True)
def _nonnegative(p: jax.Array, step_size: jax.Array) -> jax.Array:
    del step_size
    return jnp.maximum(p, 0)


def box(lower: Any, upper: Any) -> Prox:
    """The constraint lower ≤ z ≤ upper, whose prox is the projection.

    ```
    g(z) = 0 if lower ≤ z ≤ upper else inf        prox(p)ᵢ = min(max(pᵢ, lowerᵢ), upperᵢ)
    ```

    The bounds are those numbers rounded to the parameter's dtype, so that a projected parameter is
    always inside.

    Args:
        lower: a number, −inf for none, an array that broadcasts to the parameter, or a tree of these
            that is a prefix of the parameters. May be traced.
        upper: likewise, inf for none; at least `lower`.

    Returns:
        A `Prox` for real parameters.

    Raises:
        ValueError: if a Python number or NumPy array in a bound is NaN, or in `lower` is above the one
            in `upper`.
        TypeError: if a leaf of a bound is not a real number or array.

    Example:
        >>> import jax.numpy as jnp, nag_optax
        >>> nag_optax.prox.box(-1.0, jnp.array([0.5, 2.0]))(jnp.array([1.0, -3.0]), 1.0)
        Array([ 0.5, -1. ], dtype=float32)

    Source: Parikh and Boyd, *Proximal algorithms*, 2014, section 6.2.4.
    """
    check_numbers("lower", lower, finite=False)
    check_numbers("upper", upper, finite=False)
    _check_order(lower, upper)
    return _box(lower, upper)


@leafwise(penalty=lambda z, lower, upper: jnp.all((z >= lower) & (z <= upper)), real=True, exact=True)
def _box(p: jax.Array, step_size: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    del step_size
    return jnp.clip(p, lower, upper)


def _check_order(lower: Any, upper: Any) -> None:
    """Raises where Python can see lower > upper: numbers and NumPy arrays."""
    for pair in _pairs(lower, upper):
        if not all(isinstance(bound, np.ndarray) or is_python_number(bound) for bound in pair):
            continue
        try:
            crossed = np.any(np.greater(*pair))
        except ValueError:
            continue  # shapes that do not fit each other are named when they meet a parameter
        if crossed:
            raise ValueError(f"lower must be at most upper; got lower {pair[0]} and upper {pair[1]}")


def _pairs(lower: Any, upper: Any) -> list[tuple[Any, Any]]:
    """The leaves of both that bound the same parameters, where one tree is a prefix of the other."""
    try:
        return list(zip(prefix_leaves("lower", lower, upper), jax.tree.leaves(upper), strict=True))
    except ValueError:
        pass
    try:
        return list(zip(jax.tree.leaves(lower), prefix_leaves("upper", upper, lower), strict=True))
    except ValueError:
        return []
