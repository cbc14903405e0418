"""Any Euclidean projection as a prox."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nag_optax._arguments import check_numbers
from nag_optax._arrays import array_norm, on_auto_axes, wide
from nag_optax.prox.base import Leaf, Params, Prox, indicator, leaves_of, narrowed
from nag_optax.prox.constraints import box, nonnegative

# Only these of Optax's projections are right for complex parameters.
_COMPLEX = (optax.projections.projection_l2_ball, optax.projections.projection_l2_sphere)


def projection(fn: Callable[..., Params], *args: Any, **kwargs: Any) -> Prox:
    """The constraint to the set that `fn` projects onto.

    ```
    g(z) = 0 if z = fn(z, *args, **kwargs) else inf        prox(p) = fn(p, *args, **kwargs)
    ```

    z counts as inside when ‖z − fn(z)‖ ≤ 100·eps·‖z‖, because a projection rounds. The coarsest dtype
    among the parameters gives eps.

    Args:
        fn: `fn(tree, *args, **kwargs) -> tree`, the Euclidean projection: any function of
            `optax.projections`, or your own. The whole tree is one vector; for one set a leaf, use
            `separable`. It is called with all leaves in one dtype, the widest of theirs and JAX's default
            float.
        *args: its other arguments: numbers, arrays or trees of them. May be traced.
        **kwargs: those by name, likewise. An option that is no array belongs in a function of your
            own.

    Returns:
        A `Prox`; for `projection_non_negative`, `projection_box` and `projection_hypercube` the one
        of `nonnegative` or `box`. On complex parameters it takes functions of your own, and of Optax
        those on the l2 ball and l2 sphere.

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
    for value in jax.tree.leaves((args, kwargs)):
        if not isinstance(value, np.ndarray | jax.Array | np.generic | int | float | complex):
            raise TypeError(f"the arguments of {_name(fn)} must be numbers and arrays; got {value!r}")
    if _is_optax(fn) and "scale" in given:
        check_numbers("scale", given["scale"], minimum=0)
    # In Optax these three want a tree of bounds for a tree of parameters.
    match _name(fn) if _is_optax(fn) else "":
        case "projection_non_negative":
            return nonnegative()
        case "projection_box":
            return box(given["lower"], given["upper"])
        case "projection_hypercube":
            return box(0.0, given.get("scale", 1.0))
    return Prox("projection", _projection, _projection_value, (args, kwargs), (("fn", fn),))


def _projection(
    params: Params, step_size: jax.typing.ArrayLike, args: tuple, kwargs: dict, fn: Callable[..., Params]
) -> Params:
    del step_size
    leaves, treedef = leaves_of(params, "projection")
    return narrowed(treedef, leaves, _projected(leaves, treedef, args, kwargs, fn)[1])


def _projection_value(params: Params, args: tuple, kwargs: dict, fn: Callable[..., Params]) -> jax.Array:
    leaves, treedef = leaves_of(params, "projection")
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
    # With x64 enabled some of Optax's are float64 inside. Their derivatives then fail for float32.
    dtype = wide(jnp.result_type(float), *(leaf.array.dtype for leaf in leaves))
    given = [leaf.array.astype(dtype) for leaf in leaves]
    if not any(a.size for a in given):
        return given, given
    args, kwargs = jax.tree.map(lambda a: _in_dtype(a, dtype), (args, kwargs))
    tree = treedef.unflatten(given)
    if _is_optax(fn):
        call = functools.partial(_promoting, _OURS.get(fn, fn))
        result = on_auto_axes(call, tree, tree, args, kwargs)
    else:
        result = _called(fn, tree, args, kwargs)
    if jax.tree.structure(result) != treedef:
        raise ValueError(f"{_name(fn)} must keep the tree {treedef}; got {jax.tree.structure(result)}")
    projected = jax.tree.leaves(result)
    for leaf, a in zip(leaves, map(jnp.asarray, projected), strict=True):
        if a.shape != leaf.array.shape:
            raise ValueError(
                f"{_name(fn)} must keep shapes: {leaf.name} had {leaf.array.shape}, got {a.shape}"
            )
        if wide(a.dtype, dtype) != a.dtype or jnp.iscomplexobj(a) != jnp.iscomplexobj(leaf.array):
            raise TypeError(f"{_name(fn)} must keep dtypes: {leaf.name} had {dtype}, got {a.dtype}")
    return given, [jnp.asarray(a, dtype) for a in projected]


def _in_dtype(value: Any, dtype: jnp.dtype) -> Any:
    """A wider argument would widen the result."""
    own = jnp.result_type(value)
    if not jnp.issubdtype(own, jnp.inexact):
        return value
    return jnp.asarray(value, dtype if jnp.issubdtype(own, jnp.complexfloating) else jnp.finfo(dtype).dtype)


def _called(fn: Callable[..., Params], tree: Params, args: tuple, kwargs: dict) -> Params:
    """fn(tree, *args, **kwargs) with implicit promotion, which functions of others use."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return fn(tree, *args, **kwargs)


_promoting = jax.custom_jvp(_called, nondiff_argnums=(0,))


@_promoting.defjvp
def _promoting_jvp(fn: Callable[..., Params], primals: tuple, tangents: tuple) -> tuple[Params, Params]:
    # A derivative rule of fn runs here, and after jit it does so outside of the call above.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jax.jvp(lambda tree, args, kwargs: fn(tree, *args, **kwargs), primals, tangents)


def _l2_ball(tree: Params, scale: jax.typing.ArrayLike = 1.0) -> Params:
    """As Optax's. Its derivative within the ball would not be 0, but a rounding error."""
    length = array_norm(jnp.stack([array_norm(leaf) for leaf in jax.tree.leaves(tree)]))
    outside = length > scale
    factor = jnp.where(outside, scale / jnp.where(outside, length, 1), 1)
    return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, tree)


_OURS = {optax.projections.projection_l2_ball: _l2_ball}


def _is_optax(fn: Callable) -> bool:
    return getattr(optax.projections, getattr(fn, "__name__", ""), None) is fn


def _name(fn: Callable) -> str:
    return getattr(fn, "__name__", repr(fn))
