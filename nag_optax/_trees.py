"""Sums and norms over trees, in float32 or wider."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nag_optax._dtypes import wide


def sum_over_leaves(product: Callable, first: Any, second: Any) -> jax.Array:
    """Σ product(a, b) over leaves; a None of the first tree takes no part."""
    products = jax.tree.map(
        lambda a, b: None if a is None else product(a, b).astype(float),
        first,
        second,
        is_leaf=is_none,
    )
    return sum(jax.tree.leaves(products), start=jnp.zeros([], float))


def dot(first: Any, second: Any) -> jax.Array:
    """Re⟨a, b⟩."""
    return sum_over_leaves(_real_product, first, second)


def norm(tree: Any) -> jax.Array:
    """‖a‖, which over- and underflows only where it is no number of the dtype itself.

    Two passes each time: a second one only where it is needed takes a branch, and what a compiled loop
    costs is the number of its parts.
    """
    parts = [array_norm(leaf.astype(wide(leaf.dtype))).astype(float) for leaf in jax.tree.leaves(tree)]
    return parts[0] if len(parts) == 1 else array_norm(jnp.asarray(parts, float))


def array_norm(a: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    """The l2 norm, which neither over- nor underflows, and whose derivative at zero is zero."""
    modulus = jnp.abs(a)
    largest = jax.lax.stop_gradient(jnp.max(modulus, axes, keepdims=True, initial=0.0))
    tiny = jnp.finfo(modulus.dtype).tiny
    # Both bounds are those of numbers with a normal reciprocal, by which XLA would multiply anyway.
    scale = jnp.where(largest >= tiny, jnp.minimum(largest, 1 / tiny), 1.0)
    square = jnp.sum(jnp.square(modulus * (1 / scale)), axes)
    zero = square == 0.0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square))) * jnp.squeeze(scale, axes)


def widened(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both in the dtype that holds both and float32."""
    dtype = wide(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)


def select(flag: jax.Array, if_true: Any, if_false: Any) -> Any:
    """One tree or the other, array by array."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), if_true, if_false)


def path_name(path: Any, root: str = "at the root") -> str:
    """What a leaf is called in errors."""
    return jax.tree_util.keystr(path) or root


def is_none(leaf: Any) -> bool:
    return leaf is None


def misfit(flags: Any, params: Any) -> str:
    """Why the parameters do not extend this tree, in one line; JAX takes ten."""
    flagged = [path for path, _ in jax.tree_util.tree_flatten_with_path(flags)[0]]
    named = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    for name in named:
        if not any(name[: len(path)] == path for path in flagged):
            return f"it has none for parameter {path_name(name)}"
    for path in flagged:
        if not any(name[: len(path)] == path for name in named):
            return f"there is no parameter {jax.tree_util.keystr(path)}"
    return "the updates have another tree"


def _real_product(a: jax.Array, b: jax.Array) -> jax.Array:
    a, b = widened(a, b)
    return jnp.sum(jnp.real(jnp.conj(a) * b))
