"""Indicators of convex sets, whose prox is the projection: nonnegative, box, any projection."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nag_optax._dtypes import wide
from nag_optax._validate import check_numbers, is_python_number
from nag_optax.prox.base import Leaf, Params, Prox, indicator, narrowed, prefix_leaves, spread, widened

# Of Optax's projections these alone are right for complex parameters: they act on moduli.
_COMPLEX = tuple(getattr(optax.projections, f"projection_{name}") for name in ("l2_ball", "l2_sphere"))


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
    return Prox("nonnegative", _nonnegative, _nonnegative_value)


def _nonnegative(params: Params, step_size: jax.typing.ArrayLike) -> Params:
    del step_size
    leaves, treedef = widened(params, "nonnegative", real=True)
    return narrowed(treedef, leaves, [jnp.maximum(leaf.array, 0.0) for leaf in leaves])


def _nonnegative_value(params: Params) -> jax.Array:
    leaves, _ = widened(params, "nonnegative", real=True)
    return indicator([jnp.all(leaf.array >= 0.0) for leaf in leaves])


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
    return Prox("box", _box, _box_value, (lower, upper))


def _box(params: Params, step_size: jax.typing.ArrayLike, lower: Any, upper: Any) -> Params:
    del step_size
    leaves, treedef, lowers, uppers = _bounds(params, lower, upper)
    clipped = [jnp.clip(x.array, lo, up) for x, lo, up in zip(leaves, lowers, uppers, strict=True)]
    return narrowed(treedef, leaves, clipped)


def _box_value(params: Params, lower: Any, upper: Any) -> jax.Array:
    leaves, _, lowers, uppers = _bounds(params, lower, upper)
    return indicator(
        [jnp.all((x.array >= lo) & (x.array <= up)) for x, lo, up in zip(leaves, lowers, uppers, strict=True)]
    )


def _bounds(params: Params, lower: Any, upper: Any):
    leaves, treedef = widened(params, "box", real=True)
    lowers, uppers = (
        [
            bound.astype(leaf.dtype).astype(leaf.array.dtype)
            for bound, leaf in zip(spread(name, tree, params, leaves), leaves, strict=True)
        ]
        for name, tree in (("lower", lower), ("upper", upper))
    )
    return leaves, treedef, lowers, uppers


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


def projection(fn: Callable[..., Params], *args: Any, **kwargs: Any) -> Prox:
    """The constraint to the set that `fn` projects onto.

    ```
    g(z) = 0 if z = fn(z, *args, **kwargs) else inf        prox(p) = fn(p, *args, **kwargs)
    ```

    z counts as inside when ‖z − fn(z)‖ ≤ 100·eps·‖z‖, because a projection rounds; eps is that of the
    coarsest dtype among the parameters.

    Args:
        fn: `fn(tree, *args, **kwargs) -> tree`, the Euclidean projection: any function of
            `optax.projections`, or your own. The whole tree is one vector; for one set a leaf, use
            `separable`. It is called with all leaves in one dtype, float32 or wider.
        *args, **kwargs: its other arguments: numbers, arrays or trees of them. May be traced. A fixed
            option that is no array belongs in a function of your own. A tree of parameters needs a
            tree of bounds in `optax.projections.projection_box` and `projection_hypercube`: use `box`
            for prefixes of the tree.

    Returns:
        A `Prox`. On complex parameters it takes functions of your own, and of Optax those on the l2
        ball and l2 sphere.

    Raises:
        ValueError: if a `scale` of an Optax function is negative, or `lower` above `upper`; when
            called, if `fn` changes the tree or a shape.
        TypeError: if `fn` cannot be called with these arguments; when called, if parameters are complex
            and the function is for real ones, or it changes a dtype.

    Example:
        >>> import jax.numpy as jnp, optax, nag_optax
        >>> prox = nag_optax.prox.projection(optax.projections.projection_simplex, scale=2.0)
        >>> prox(jnp.array([2.0, 1.0, -1.0]), 1.0)
        Array([1.5, 0.5, 0. ], dtype=float32)

    Source: Parikh and Boyd, *Proximal algorithms*, 2014, section 6.2.
    """
    if not callable(fn):
        raise TypeError(f"fn must be a callable fn(tree, ...) -> tree; got {fn!r}")
    try:
        given = inspect.signature(fn).bind(None, *args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"fn {_name(fn)} cannot be called with these arguments: {error}") from None
    if _is_optax(fn):
        if "scale" in given:
            check_numbers("scale", given["scale"], minimum=0)
        if "lower" in given:
            _check_order(given["lower"], given["upper"])
    return Prox("projection", _projection, _projection_value, (args, kwargs), (("fn", fn),))


def _projection(
    params: Params, step_size: jax.typing.ArrayLike, args: tuple, kwargs: dict, fn: Callable[..., Params]
) -> Params:
    del step_size
    leaves, treedef = widened(params, "projection")
    return narrowed(treedef, leaves, _projected(leaves, treedef, args, kwargs, fn)[1])


def _projection_value(params: Params, args: tuple, kwargs: dict, fn: Callable[..., Params]) -> jax.Array:
    leaves, treedef = widened(params, "projection")
    given, projected = _projected(leaves, treedef, args, kwargs, fn)
    if not given:
        return indicator([])

    def norm(arrays: list[jax.Array]) -> jax.Array:
        return jnp.sqrt(sum(jnp.sum(jnp.square(jnp.abs(a))) for a in arrays))

    distance = norm([a - b for a, b in zip(given, projected, strict=True)])
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves)
    return indicator([distance <= 100 * eps * norm(given)])


def _projected(
    leaves: list[Leaf], treedef: Any, args: tuple, kwargs: dict, fn: Callable[..., Params]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """The leaves in one dtype, before and after the projection."""
    for leaf in leaves:
        if jnp.iscomplexobj(leaf.array) and _is_optax(fn) and fn not in _COMPLEX:
            raise TypeError(
                f"{_name(fn)} is for real parameters; parameter {leaf.name} has dtype {leaf.dtype}"
            )
    dtype = wide(*(leaf.array.dtype for leaf in leaves))
    given = [leaf.array.astype(dtype) for leaf in leaves]
    # Functions of others may rely on promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        result = fn(treedef.unflatten(given), *args, **kwargs)
    if jax.tree.structure(result) != treedef:
        raise ValueError(f"{_name(fn)} must keep the tree {treedef}; got {jax.tree.structure(result)}")
    projected = jax.tree.leaves(result)
    for leaf, a in zip(leaves, map(jnp.asarray, projected), strict=True):
        if a.shape != leaf.array.shape:
            raise ValueError(
                f"{_name(fn)} must keep shapes: {leaf.name} had {leaf.array.shape}, got {a.shape}"
            )
        if a.dtype != dtype:
            raise TypeError(f"{_name(fn)} must keep dtypes: {leaf.name} had {dtype}, got {a.dtype}")
    return given, [jnp.asarray(a) for a in projected]


def _is_optax(fn: Callable) -> bool:
    return getattr(optax.projections, getattr(fn, "__name__", ""), None) is fn


def _name(fn: Callable) -> str:
    return getattr(fn, "__name__", repr(fn))
