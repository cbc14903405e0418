"""Buffers of a state: their dtype, their zeros, whether an update fits them, and their next values."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nag_optax._dtypes import wide
from nag_optax._trees import is_none, path_name
from nag_optax._validate import hint_of_injection, is_python_number


def buffer_dtype(dtype: jax.typing.DTypeLike | None, name: str = "accumulator_dtype") -> jnp.dtype | None:
    if dtype is None:
        return None
    allowed = f"{name} must be a floating or complex dtype, or None"
    # Before NumPy sees it, for which a scalar is its own dtype.
    if hint := hint_of_injection(dtype):
        raise ValueError(f"{allowed}; got {dtype!r}{hint}")
    try:
        dtype = jnp.dtype(dtype)
    except TypeError:
        raise ValueError(f"{allowed}; got {dtype!r}") from None
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"{allowed}; got {dtype}")
    return dtype


def zero_buffers(params: optax.Params, dtype: jnp.dtype | None) -> optax.Updates:
    def zeros(path, p):
        name = path_name(path)
        # Not by result_type, for which the text "float32" is a dtype.
        if not (hasattr(p, "dtype") or isinstance(p, int | float | complex)):
            raise TypeError(f"parameter {name} must be an array; got {p!r} of type {type(p).__name__}")
        own = jnp.result_type(p)
        if not jnp.issubdtype(own, jnp.inexact):
            raise TypeError(
                f"parameter {name} has dtype {own}, which cannot move: leave it out of the tree that is "
                "trained (None in its place will do), or convert it to a float"
            )
        wanted = _dtype_for(own, own if dtype is None else dtype)
        if not jnp.issubdtype(own, jnp.complexfloating) and jnp.issubdtype(wanted, jnp.complexfloating):
            raise ValueError(
                f"accumulator_dtype {wanted} is for complex parameters; parameter {name} has dtype {own}"
            )
        if not isinstance(p, jax.Array):
            return jnp.zeros_like(p, dtype=wanted)
        # Zeros that depend on nothing would land on one device under jit; these take p's sharding.
        return jnp.where(jnp.zeros([], bool), p, jnp.zeros([], own)).astype(wanted)

    return jax.tree_util.tree_map_with_path(zeros, params)


def owned(tree: Any) -> Any:
    """The same values in arrays of the state's own; in a compiled program this is nothing.

    A state is given away to the next step. Were the user's array in it, it would go with the state.
    """
    return jax.tree.map(jnp.copy, tree)


def _dtype_for(own: jnp.dtype, wanted: jnp.dtype) -> jnp.dtype:
    """A real accumulator of a complex parameter is the complex dtype of that precision."""
    return wide(wanted, jnp.complex64) if jnp.issubdtype(own, jnp.complexfloating) else wanted


def check_buffers(updates: optax.Updates, dtype: jnp.dtype | None, *buffers: optax.Updates) -> None:
    """A tree, shape or dtype that is not that of `init` would broadcast, or fail far from its cause."""
    for buffer in buffers:
        _check_buffer(updates, dtype, buffer)


def _check_buffer(updates: optax.Updates, dtype: jnp.dtype | None, buffer: optax.Updates) -> None:
    leaves, treedef = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_none)
    try:
        offsets = treedef.flatten_up_to(buffer)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"the updates' tree is not that of the parameters given to init: {error}") from None
    for (path, u), w in zip(leaves, offsets, strict=True):
        if u is None:
            continue
        name = path_name(path)
        if not jax.tree_util.all_leaves([w]):
            raise ValueError(f"update {name} is an array where the parameters given to init had none: {w}")
        if jnp.shape(u) != jnp.shape(w):
            raise ValueError(
                f"update {name} has shape {jnp.shape(u)}, but its parameter had shape {jnp.shape(w)} at init"
            )
        # As of a checkpoint from before accumulator_dtype was asked for.
        if dtype is not None and w.dtype != jax.dtypes.canonicalize_dtype(_dtype_for(w.dtype, dtype)):
            raise ValueError(
                f"accumulator_dtype is {dtype}, but opt_state has {w.dtype} for update {name}: cast it, "
                "jax.tree.map(lambda s, like: s.astype(like.dtype), opt_state, optimizer.init(params))"
            )


def step_buffers(leaf: Callable[..., tuple], updates: optax.Updates, *buffers: optax.Updates) -> tuple:
    """leaf(u, w, …) → (Δ, w⁺, …) over trees; a None among the updates keeps its buffers.

    The leaf computes in one dtype that holds all of its arrays and float32; Δ is then rounded to
    the dtype of u, and each buffer to its own.
    """

    def step(u: jax.Array | None, *ws: jax.Array) -> tuple[Any, ...]:
        if u is None:
            return None, *ws
        dtype = wide(u.dtype, *(w.dtype for w in ws))
        new = leaf(u.astype(dtype), *(w.astype(dtype) for w in ws))
        return tuple(after.astype(before.dtype) for after, before in zip(new, (u, *ws), strict=True))

    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    rows = [step(*row) for row in zip(_joined(leaves), *map(treedef.flatten_up_to, buffers), strict=True)]
    return tuple(treedef.unflatten([row[i] for row in rows]) for i in range(1 + len(buffers)))


def _joined(leaves: list[jax.Array | None]) -> list[jax.Array | None]:
    """The same leaves. On a GPU, XLA then updates small ones of one shape in one kernel.

    To launch a kernel for each takes longer than to run it. XLA joins loops that read a common array: here
    one of ones, behind a barrier so that it is read.
    """
    # On several devices leaves of one shape may be split in several ways, and the array only in one.
    if jax.default_backend() != "gpu" or jax.device_count() > 1:
        return leaves
    small = [u for u in leaves if u is not None and u.size <= 2**18 and jnp.issubdtype(u.dtype, jnp.floating)]
    counts = Counter(map(jax.typeof, small))
    ones = {jax.typeof(u): u for u in small if counts[jax.typeof(u)] > 1}
    ones = {kind: jax.lax.optimization_barrier(jnp.ones_like(u)) for kind, u in ones.items()}
    return [u if u is None or jax.typeof(u) not in ones else u * ones[jax.typeof(u)] for u in leaves]


def weighted_sum(
    a: jax.typing.ArrayLike, old: jax.Array, b: jax.typing.ArrayLike, new: jax.Array
) -> jax.Array:
    """a·old + b·new: the next value of a buffer, in its dtype."""
    kept = jnp.asarray(a, old.dtype)
    # XLA writes equal powers of two as a·(old + new), a product that it computes again wherever it is
    # read: the old buffer is then read after its end, and copied. It cannot join what it does not know.
    if not is_python_number(a) or math.frexp(a)[0] == 0.5:
        kept = jax.lax.optimization_barrier(kept)
    return kept * old + jnp.asarray(b, old.dtype) * new
