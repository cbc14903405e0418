"""Any Euclidean projection as a prox."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from nag_optax._arguments import check_numbers
from nag_optax._arrays import array_norm, dot, on_auto_axes, select, wide
from nag_optax.prox.base import Leaf, Params, Prox, indicator, leaves_of, narrowed, total
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
            float. Most of Optax's name a set here: the projection onto it is another algorithm, which
            stays exact where float32 rounds large coordinates, and for a radius of 0.
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
    # With x64 enabled some of Optax's, which yours may call, are float64 inside. Their derivatives then fail
    # for float32.
    dtype = wide(jnp.result_type(float), *(leaf.array.dtype for leaf in leaves))
    given = [leaf.array.astype(dtype) for leaf in leaves]
    if not any(a.size for a in given):
        return given, given
    args, kwargs = jax.tree.map(lambda a: _in_dtype(a, dtype), (args, kwargs))
    tree = treedef.unflatten(given)
    if _is_optax(fn):
        call = functools.partial(_called, _OURS.get(_name(fn), fn))
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


# In place of Optax's, which miss the set by the rounding of the largest coordinate, overflow where a square
# does, and divide by a radius of zero.


def _simplex(tree: Params, scale: jax.typing.ArrayLike = 1) -> Params:
    values, unravel = ravel_pytree(tree)
    scale = jnp.asarray(scale, values.dtype)
    # A shift changes nothing. After this one the coordinates above 0 differ by `scale` at most, and so
    # does their rounding.
    values = values - jax.lax.stop_gradient(jnp.max(values))
    ranked = jax.lax.stop_gradient(jnp.sort(jnp.maximum(values, -scale), descending=True))
    thresholds = (jnp.cumsum(ranked) - scale) / jnp.arange(1, ranked.size + 1, dtype=ranked.dtype)
    positive = jnp.count_nonzero(ranked > thresholds)
    threshold = jax.lax.stop_gradient(thresholds[jnp.maximum(positive, 1) - 1])
    # The largest stays also where the radius is 0. A NaN stays, so that it is seen in the result.
    falls = (values <= threshold) & (values < 0)
    mean = (jnp.sum(jnp.where(falls, 0, values)) - scale) / jnp.sum(~falls, dtype=values.dtype)
    return unravel(jnp.where(falls | (values < mean), 0, values - mean))


def _l1_sphere(tree: Params, scale: jax.typing.ArrayLike = 1.0) -> Params:
    moduli = _simplex(jax.tree.map(jnp.abs, tree), scale)
    return jax.tree.map(lambda leaf, modulus: jnp.where(leaf < 0, -modulus, modulus), tree, moduli)


def _l1_ball(tree: Params, scale: jax.typing.ArrayLike = 1.0) -> Params:
    length = total([jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)])
    return select(length <= scale, tree, _l1_sphere(tree, scale))


def _length(tree: Params) -> jax.Array:
    return array_norm(jnp.stack([array_norm(leaf) for leaf in jax.tree.leaves(tree)]))


def _l2_sphere(tree: Params, scale: jax.typing.ArrayLike = 1.0) -> Params:
    factor = scale / _length(tree)
    return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, tree)


def _l2_ball(tree: Params, scale: jax.typing.ArrayLike = 1.0) -> Params:
    """Its derivative within the ball is 0 in `scale`; Optax's is a rounding error."""
    length = _length(tree)
    outside = length > scale
    factor = jnp.where(outside, scale / jnp.where(outside, length, 1), 1)
    return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, tree)


def _unit(a: Params, tree: Params) -> tuple[Params, jax.Array]:
    """a/‖a‖ in the shapes and the dtype of the tree, and ‖a‖."""
    a = jax.tree.map(lambda leaf, p: jnp.broadcast_to(jnp.asarray(leaf, p.dtype), p.shape), a, tree)
    length = _length(a)
    return jax.tree.map(lambda leaf: leaf / length, a), length


def _along(tree: Params, shift: jax.typing.ArrayLike, unit: Params) -> Params:
    return jax.tree.map(lambda leaf, u: leaf + jnp.asarray(shift, leaf.dtype) * u, tree, unit)


def _vector(tree: Params, a: Params) -> Params:
    unit, _ = _unit(a, tree)
    return _along(jax.tree.map(jnp.zeros_like, tree), dot(tree, unit), unit)


def _hyperplane(tree: Params, a: Params, b: jax.typing.ArrayLike) -> Params:
    unit, length = _unit(a, tree)
    # The first step rounds in units of the tree, the second in those of the result.
    for _ in range(2):
        tree = _along(tree, b / length - dot(tree, unit), unit)
    return tree


def _halfspace(tree: Params, a: Params, b: jax.typing.ArrayLike) -> Params:
    unit, length = _unit(a, tree)
    return select(dot(tree, unit) <= b / length, tree, _hyperplane(tree, a, b))


_OURS = {
    "projection_simplex": _simplex,
    "projection_l1_sphere": _l1_sphere,
    "projection_l1_ball": _l1_ball,
    "projection_l2_sphere": _l2_sphere,
    "projection_l2_ball": _l2_ball,
    "projection_vector": _vector,
    "projection_hyperplane": _hyperplane,
    "projection_halfspace": _halfspace,
}


def _is_optax(fn: Callable) -> bool:
    return getattr(optax.projections, getattr(fn, "__name__", ""), None) is fn


def _name(fn: Callable) -> str:
    return getattr(fn, "__name__", repr(fn))
