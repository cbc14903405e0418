"""A traced function of a state and a batch. Its arrays are flat lists with names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from nag_optax._arguments import check_flags, check_number
from nag_optax._arrays import path_name


class Leaf(NamedTuple):
    """One array in a manifest.

    Attributes:
        name: its path in its tree, such as `params/w`.
        dtype: such as `float32`, `bfloat16` or `int8`; `uint32` for the data of a PRNG key.
        shape: None stands for a free batch size.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """A function of a state and a batch that no longer needs the code that it was traced from.

    Called with the arrays of the state and of the batch, two sequences, it returns the arrays of the next
    state and of the outputs, two lists. `jax.jit` takes it like any function.

    Attributes:
        exported: the StableHLO. Its arguments are the state, then the batch.
        state: the arrays of the state. Frozen arrays are not among them; they are constants of the program.
        inputs: the arrays of the batch.
        outputs: the other arrays that it returns, such as the loss.
        initial: the state to begin with.
        trains: whether it returns a new state. If not, the state comes back unchanged.
    """

    exported: jax.export.Exported
    state: tuple[Leaf, ...]
    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    initial: tuple[np.ndarray, ...]
    trains: bool

    def __call__(self, state: Sequence[Any], batch: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        results = list(self.exported.call(*state, *batch))
        count = len(self.state) if self.trains else 0
        return results[:count] if self.trains else list(state), results[count:]

    @property
    def batch_size(self) -> int | None:
        """The only batch size that it takes; None if it takes every size."""
        return self.inputs[0].shape[0]


def trace(
    function: Callable[[Any, Any], tuple[Any, Any]],
    state: Any,
    batch: Any,
    *,
    frozen: Any = False,
    batch_size: int | None = None,
    platforms: Sequence[str] | None = None,
) -> Program:
    """The program of a pure function.

    Args:
        function: takes state and batch. It returns the next state, or None if there is none, and outputs.
        state: a tree of arrays, numbers and PRNG keys.
        batch: a tree of arrays, or of their shapes and dtypes, with the examples along the first axis.
        frozen: a tree of booleans, or a prefix of one. It is True where the state is constant.
        batch_size: None for every size.
        platforms: as `jax.export.export` takes them.

    Raises:
        ValueError: if an array of the batch has no axis, or the next state is of another structure, shape
            or dtype.
    """
    check_flags("frozen", frozen)
    leaves, treedef = jax.tree.flatten(state)
    # NumPy's arrays become constants of the program.
    values = [x if _is_key(x) else np.asarray(jnp.asarray(x)) for x in leaves]
    free = [k for k, fixed in enumerate(jax.tree.leaves(jax.tree.broadcast(frozen, state))) if not fixed]
    count = len(free)
    # Taken from the leaves, because a Python number is weakly typed, as it is in a jitted step.
    kinds = jax.eval_shape(lambda: [_data(leaves[k]) for k in free])
    inputs, batchdef = jax.tree.flatten(_sized(batch, batch_size))

    def on_trees(*arrays: Any) -> tuple[Any, Any]:
        whole = list(values)
        for k, x in zip(free, arrays[:count], strict=True):
            whole[k] = (
                jax.random.wrap_key_data(x, impl=jax.random.key_impl(leaves[k])) if _is_key(leaves[k]) else x
            )
        return function(treedef.unflatten(whole), batchdef.unflatten(arrays[count:]))

    def on_lists(*arrays: Any) -> list[jax.Array]:
        new, outputs = on_trees(*arrays)
        own = [] if new is None else [jax.tree.leaves(new)[k] for k in free]
        return [_data(x) for x in [*own, *jax.tree.leaves(outputs)]]

    new, outputs = jax.eval_shape(on_trees, *kinds, *inputs)
    if new is not None:
        _check_same(state, new)
    named = _named(jax.eval_shape(lambda: state), "state")
    return Program(
        exported=jax.export.export(jax.jit(on_lists, keep_unused=True), platforms=platforms)(*kinds, *inputs),
        state=tuple(named[k] for k in free),
        inputs=_named(batchdef.unflatten(inputs), "batch"),
        outputs=_named(outputs, "outputs"),
        initial=tuple(np.asarray(_data(values[k])) for k in free),
        trains=new is not None,
    )


def _sized(batch: Any, batch_size: int | None) -> Any:
    """The shapes and dtypes of the batch, of that size."""
    if batch_size is None:
        (size,) = jax.export.symbolic_shape("batch", constraints=["batch >= 1"])
    else:
        check_number("batch_size", batch_size, minimum=1, below=2**31, integer=True)
        size = batch_size

    def sized(path: Any, x: Any) -> jax.ShapeDtypeStruct:
        if not x.shape:
            raise ValueError(
                f"batch must have the examples along its first axis; {path_name(path)} it has none"
            )
        return jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)

    return jax.tree_util.tree_map_with_path(sized, jax.eval_shape(lambda tree: tree, batch))


def _check_same(state: Any, new: Any) -> None:
    """Raises unless the next state is one that the program takes."""
    before, after = _named(jax.eval_shape(lambda: state), "state"), _named(new, "state")
    if jax.tree.structure(state) != jax.tree.structure(new):
        lost = {leaf.name for leaf in before} ^ {leaf.name for leaf in after}
        raise ValueError(
            f"a step must keep the structure of the state; this changes {', '.join(sorted(lost))}"
        )
    for old, leaf in zip(before, after, strict=True):
        if old != leaf:
            raise ValueError(
                f"a step must keep shapes and dtypes of the state; {old.name} is "
                f"{old.dtype}{list(old.shape)}, and {leaf.dtype}{list(leaf.shape)} after it"
            )


def _named(tree: Any, root: str) -> tuple[Leaf, ...]:
    """The entries of a manifest for these arrays. A tree that is one array has the name `root`."""
    found = []
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        x = jax.eval_shape(_data, x)
        shape = tuple(d if isinstance(d, int) else None for d in x.shape)
        found.append(
            Leaf(jax.tree_util.keystr(path, simple=True, separator="/") or root, str(x.dtype), shape)
        )
    return tuple(found)


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _data(x: Any) -> Any:
    """An array, or the data of a PRNG key."""
    return jax.random.key_data(x) if _is_key(x) else x
