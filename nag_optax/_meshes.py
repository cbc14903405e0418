"""How arrays are typed on a mesh: over which axes they vary or are split."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding


def varying_with(tree: Any, data: Any) -> Any:
    """The same tree, each array typed as one that varies over every mesh axis that some array of `data` does.

    Inside `shard_map` a scalar that starts as a constant and then depends on data changes its type, which
    no loop, branch or scan accepts. Of `data` only the types are read, so that shapes do. Elsewhere, and in
    a compiled program, this is nothing.
    """

    def flag(leaf: jax.Array) -> jax.Array:
        # Of the leaf's rank: where that is replicated, its sharding is taken too, and must fit.
        return jnp.zeros_like(leaf, dtype=bool, shape=(1,) * jnp.ndim(leaf)).reshape(())

    no = functools.reduce(jnp.logical_or, map(flag, jax.tree.leaves(data)), jnp.zeros([], bool))
    return jax.tree.map(lambda leaf: jnp.where(no, leaf, leaf), tree)


def on_auto_axes(fn: Callable, like: Any, *arrays: Any) -> Any:
    """fn(*arrays), a tree whose arrays are split over the mesh as those of `like` are.

    For what JAX refuses where an explicit mesh axis splits an array: an SVD, a sort, a product with two
    possible layouts. Inside, these axes are automatic. Where none splits an array, this is fn itself.
    """
    shardings = [jax.typeof(leaf).sharding for leaf in jax.tree.leaves((like, arrays))]
    mesh = next((s.mesh for s in shardings if any(axis is not None for axis in s.spec)), None)
    if mesh is None:
        return fn(*arrays)
    explicit = tuple(
        name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit
    )
    out = jax.tree.map(lambda leaf: NamedSharding(mesh, jax.typeof(leaf).sharding.spec), like)
    return jax.sharding.auto_axes(fn, axes=explicit, out_sharding=out)(*arrays)
