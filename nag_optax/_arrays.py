"""Arrays, trees of them, and the buffers of a state: dtypes, sums and norms, mesh axes."""

import functools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding

from nag_optax._arguments import is_python_number

# Dtypes and trees.


def wide(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype that holds all of these and float32."""
    # JAX promotes no float of 8 bits or fewer. float32 holds them.
    known = [d for d in dtypes if jnp.dtype(d).itemsize > 1 or not jnp.issubdtype(d, jnp.floating)]
    # Mixed on purpose, so it must work under strict promotion too.
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, known, jnp.dtype(jnp.float32))


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
    """‖a‖. It over- or underflows only if its value is no number of the dtype.

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
    # Between the bounds a number has a normal reciprocal, by which XLA would multiply anyway.
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
    """The name of a leaf in errors."""
    return jax.tree_util.keystr(path) or root


def named(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as `block0/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


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
    return "the updates have a different tree"


def check_same(function: str, given: Any, returned: Any) -> None:
    """Raises where a function of the user's changes a tree, a shape, which would broadcast, or a dtype."""
    before, after = jax.tree.structure(given), jax.tree.structure(returned)
    if before != after:
        raise ValueError(f"{function} must return the tree that it is given, {before}; got {after}")
    for (path, v), z in zip(
        jax.tree_util.tree_flatten_with_path(given)[0], jax.tree.leaves(returned), strict=True
    ):
        name = path_name(path)
        if jnp.shape(z) != v.shape:
            raise ValueError(f"{function} must keep shapes: {name} has {v.shape}, got {jnp.shape(z)}")
        if jnp.result_type(z) != v.dtype:
            raise TypeError(f"{function} must keep dtypes: {name} has {v.dtype}, got {jnp.result_type(z)}")


def _real_product(a: jax.Array, b: jax.Array) -> jax.Array:
    a, b = widened(a, b)
    return jnp.sum(jnp.real(jnp.conj(a) * b))


# Buffers of a state.


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
        # Zeros that depend on nothing would be placed on one device under jit. These take p's sharding.
        return jnp.where(jnp.zeros([], bool), p, jnp.zeros([], own)).astype(wanted)

    return jax.tree_util.tree_map_with_path(zeros, params)


def owned(tree: Any) -> Any:
    """The same values in the state's own arrays; in a compiled program this costs nothing.

    A state is given away to the next step. Were the user's array in it, it would go with the state.
    """
    return jax.tree.map(jnp.copy, tree)


def _dtype_for(own: jnp.dtype, wanted: jnp.dtype) -> jnp.dtype:
    """A real accumulator of a complex parameter is the complex dtype of that precision."""
    return wide(wanted, jnp.complex64) if jnp.issubdtype(own, jnp.complexfloating) else wanted


def check_buffers(updates: optax.Updates, dtype: jnp.dtype | None, *buffers: optax.Updates) -> None:
    """Another tree, shape or dtype than the parameters' would broadcast, or fail far from its cause."""
    for buffer in buffers:
        _check_buffer(updates, dtype, buffer)


def _check_buffer(updates: optax.Updates, dtype: jnp.dtype | None, buffer: optax.Updates) -> None:
    leaves, treedef = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_none)
    try:
        offsets = treedef.flatten_up_to(buffer)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"the updates and the parameters have different trees: {error}") from None
    for (path, u), w in zip(leaves, offsets, strict=True):
        if u is None:
            continue
        name = path_name(path)
        if not jax.tree_util.all_leaves([w]):
            raise ValueError(f"update {name} is an array, but the parameters have {w} there")
        if jnp.shape(u) != jnp.shape(w):
            raise ValueError(
                f"update {name} has shape {jnp.shape(u)}, but its parameter has shape {jnp.shape(w)}"
            )
        # For example, of a checkpoint from before accumulator_dtype was set.
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
    # On several devices leaves of one shape may be split in different ways, but the array in one alone.
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
    # XLA writes equal powers of two as a·(old + new), and computes this product again wherever it is
    # read. The old buffer is then read late, and copied. XLA cannot join numbers that it does not know.
    if not is_python_number(a) or math.frexp(a)[0] == 0.5:
        kept = jax.lax.optimization_barrier(kept)
    return kept * old + jnp.asarray(b, old.dtype) * new


# Meshes.


def varying_with(tree: Any, data: Any) -> Any:
    """The same tree, each array typed as one that varies over every mesh axis that some array of `data` does.

    Inside `shard_map` a scalar that starts as a constant and then depends on data changes its type, which
    no loop, branch or scan accepts. Of `data` only the types are read, so that shapes do. Elsewhere, and in
    a compiled program, this is nothing.
    """

    def flag(leaf: jax.Array) -> jax.Array:
        # It has the leaf's rank, because a replicated leaf gives its sharding too, which must fit.
        return jnp.zeros_like(leaf, dtype=bool, shape=(1,) * jnp.ndim(leaf)).reshape(())

    no = functools.reduce(jnp.logical_or, map(flag, jax.tree.leaves(data)), jnp.zeros([], bool))
    return jax.tree.map(lambda leaf: jnp.where(no, leaf, leaf), tree)


def on_auto_axes(fn: Callable, like: Any, *arrays: Any) -> Any:
    """fn(*arrays), a tree whose arrays are split over the mesh as the arrays of `like` are.

    For what JAX refuses on explicit mesh axes: an SVD, a sort, a product with two possible layouts. Inside,
    these axes are automatic. Without such an axis this is fn itself.
    """
    shardings = [jax.typeof(leaf).sharding for leaf in jax.tree.leaves((like, arrays))]
    mesh = next((s.mesh for s in shardings if AxisType.Explicit in s.mesh.axis_types), None)
    if mesh is None:
        return fn(*arrays)
    explicit = tuple(
        name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit
    )
    out = jax.tree.map(lambda leaf: NamedSharding(mesh, jax.typeof(leaf).sharding.spec), like)
    return jax.sharding.auto_axes(fn, axes=explicit, out_sharding=out)(*arrays)
