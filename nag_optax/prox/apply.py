"""One proximal step, with checks of the result of the prox, and the penalty."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from nag_optax._arguments import hint_of_injection
from nag_optax._arrays import check_same, is_none, wide, widened
from nag_optax.prox.base import ProxLike
from nag_optax.prox.leafwise import leafwise


def check_prox(prox: Any, name: str = "prox") -> None:
    """Raises unless `prox` can be called, and is neither a function that makes an operator nor one of
    Optax's projections, whose second argument is no step size."""
    module = getattr(prox, "__module__", None) or ""
    if inspect.isfunction(prox) and module.startswith("nag_optax.prox."):
        home = "" if module == leafwise.__module__ else "nag_optax.prox."
        raise TypeError(
            f"{name} must be an operator; got the function {prox.__name__} that makes one: "
            f"call it, with its arguments, as {home}{prox.__name__}(...)"
        )
    if module.startswith("optax.projections"):
        raise TypeError(
            f"{name} must be an operator; got a projection of Optax, which would take the step size for its "
            f"scale: write nag_optax.prox.projection(optax.projections.{prox.__name__}, ...)"
        )
    if not callable(prox):
        raise TypeError(
            f"{name} must be an operator of nag_optax.prox or a callable prox(params, step_size) -> params; "
            f"got {prox!r} of type {type(prox).__name__}{hint_of_injection(prox)}"
        )


def proximal_point(prox: ProxLike | None, params: Any, updates: Any, step_size: Any) -> Any:
    """prox(p + u, s), at least in float32; None, and unseen by the prox, where the update is None."""

    def moved(u: jax.Array | None, p: jax.Array) -> jax.Array | None:
        if u is None:
            return None
        dtype = wide(jnp.result_type(u), jnp.result_type(p))
        return jnp.asarray(p, dtype) + jnp.asarray(u, dtype)

    point = jax.tree.map(moved, updates, params, is_leaf=is_none)
    if prox is None:
        return point
    target = prox(point, step_size)
    check_same("prox", point, target)
    return target


def descent(grads: Any, step_size: Any) -> Any:
    """−s·g, at least in float32."""

    def leaf(g: jax.Array) -> jax.Array:
        dtype = wide(g.dtype)
        return -jnp.asarray(step_size, dtype) * g.astype(dtype)

    return jax.tree.map(leaf, grads)


def difference(target: Any, params: Any) -> Any:
    """z − p, at least in float32; None where z is."""

    def leaf(z: jax.Array | None, p: jax.Array) -> jax.Array | None:
        if z is None:
            return None
        z, p = widened(jnp.asarray(z), jnp.asarray(p))
        return z - p

    return jax.tree.map(leaf, target, params, is_leaf=is_none)


def forward_backward(prox: ProxLike | None, params: Any, grads: Any, step_size: jax.Array) -> Any:
    """prox(p − s·∇f(p), s) in the dtypes of the parameters; None where the gradient is."""
    target = proximal_point(prox, params, descent(grads, step_size), step_size)
    return jax.tree.map(
        lambda z, p: None if z is None else z.astype(p.dtype), target, params, is_leaf=is_none
    )


def penalty(prox: ProxLike | None, params: Any) -> jax.Array:
    """g(p) where the prox knows it, else 0."""
    value = getattr(prox, "value", None)
    return jnp.zeros([], float) if value is None else jnp.asarray(value(params)).astype(float)
