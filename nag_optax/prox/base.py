"""The parts of every proximal operator: the class `Prox`, and the walk over the leaves of a tree."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nag_optax._arguments import check_number
from nag_optax._arrays import path_name, wide

Params = Any
Strength = Any  # a number, an array, or a tree of them that is a prefix of the parameters
ProxLike = Callable[[Params, jax.typing.ArrayLike], Params]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prox:
    """A convex penalty g and its proximal operator; made by the functions of `nag_optax.prox`.

    ```
    prox(params, step_size) = argmin_z  step_size·g(z) + ½‖z − params‖²
    prox.value(params)      = g(params), where g is known; else there is no `value`
    ```

    A pytree whose leaves are the strengths, so that they can be traced, differentiated, mapped with
    `vmap` and passed to a jitted function. Any other callable `prox(params, step_size) -> params`
    serves where a `Prox` does; only `value` is then missing. `leafwise` makes one of yours.

    Attributes:
        name: the function that made it.
        solve: `solve(params, step_size, *arguments, **options)`, the operator.
        evaluate: `evaluate(params, *arguments, **options)`, the penalty; None where it is not known.
        arguments: numbers, arrays and trees of them.
        options: all other arguments, as pairs of name and value that can be hashed.

    Example:
        >>> import jax, jax.numpy as jnp, nag_optax
        >>> prox = nag_optax.prox.l1(0.5)
        >>> prox(jnp.array([2.0, -0.25]), 1.0)
        Array([1.5, 0. ], dtype=float32)
        >>> print(prox.value(jnp.array([2.0, -0.25])))
        1.125
        >>> slope = jax.grad(lambda prox: jnp.sum(prox(jnp.array([2.0, -0.25]), 1.0)))(prox)
        >>> print(slope.arguments[0])
        -1.0
    """

    name: str = dataclasses.field(metadata={"static": True})
    solve: Callable[..., Params] = dataclasses.field(metadata={"static": True})
    evaluate: Callable[..., jax.Array] | None = dataclasses.field(metadata={"static": True})
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = dataclasses.field(default=(), metadata={"static": True})

    def __call__(self, params: Params, step_size: jax.typing.ArrayLike) -> Params:
        """argmin_z step_size·g(z) + ½‖z − params‖², in the tree and the dtypes of `params`.

        Args:
            params: a tree of floating or, where the operator makes sense, complex arrays. None
                leaves and `optax.MaskedNode` pass.
            step_size: a scalar ≥ 0, which may be traced.

        Raises:
            ValueError: if step_size is a negative Python number or no scalar, or a strength fits
                neither the tree nor a leaf.
            TypeError: if a leaf is neither floating nor complex, or complex where only real ones
                make sense.
        """
        check_number("step_size", step_size, minimum=0)
        return self.solve(params, step_size, *self.arguments, **dict(self.options))

    @property
    def value(self) -> Callable[[Params], jax.Array]:
        """`value(params)`: g, a scalar in float32 or wider; inf outside the set of an indicator."""
        evaluate = self.evaluate
        if evaluate is None:
            raise AttributeError(f"{self!r} has no value: its penalty is not known")
        return lambda params: evaluate(params, *self.arguments, **dict(self.options))

    def __repr__(self) -> str:
        shown = [*map(repr, self.arguments), *(f"{name}={value!r}" for name, value in self.options)]
        return f"{self.name}({', '.join(shown)})"


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A tree of hashable values as one hashable value: an option of a `Prox`."""

    leaves: tuple[Any, ...]
    treedef: Any

    @classmethod
    def of(cls, tree: Any) -> "Frozen":
        leaves, treedef = jax.tree.flatten(tree)
        return cls(tuple(leaves), treedef)

    @property
    def tree(self) -> Any:
        return self.treedef.unflatten(self.leaves)

    def __repr__(self) -> str:
        return repr(self.tree)


class Leaf(NamedTuple):
    """A parameter, its name for messages, and its dtype before it was widened."""

    name: str
    array: jax.Array
    dtype: jnp.dtype

    @property
    def real_dtype(self) -> jnp.dtype:
        """The real dtype in which this leaf is computed."""
        return jnp.finfo(self.array.dtype).dtype


def leaves_of(
    params: Params, operator: str, *, real: bool = False, exact: bool = False
) -> tuple[list[Leaf], Any]:
    """The leaves, each at least in float32 unless `exact`, and the tree that they came from."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    leaves = []
    for path, p in flat:
        name, dtype = path_name(path), jnp.result_type(p)
        if not jnp.issubdtype(dtype, jnp.floating if real else jnp.inexact):
            allowed = "a floating dtype" if real else "a floating or complex dtype"
            raise TypeError(f"{operator} needs parameters of {allowed}; parameter {name} has dtype {dtype}")
        leaves.append(Leaf(name, jnp.asarray(p, dtype if exact else wide(dtype)), dtype))
    return leaves, treedef


def narrowed(treedef: Any, leaves: list[Leaf], arrays: Sequence[jax.Array]) -> Params:
    """The tree again, each array in the dtype of its parameter."""
    return treedef.unflatten([a.astype(leaf.dtype) for a, leaf in zip(arrays, leaves, strict=True)])


def prefix_leaves(name: str, prefix: Any, params: Params) -> list[Any]:
    """One entry of `prefix` for each leaf of the parameters."""
    try:
        return jax.tree.leaves(jax.tree.broadcast(prefix, params))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name} must be a number, an array, or a tree of them that is a prefix of the parameters; "
            f"got {jax.tree.structure(prefix)} for {jax.tree.structure(params)}: {error}"
        ) from None


def spread(
    name: str,
    prefix: Any,
    params: Params,
    leaves: list[Leaf],
    shapes: Sequence[tuple[int, ...]] | None = None,
) -> list[jax.Array]:
    """One array of `prefix` for each leaf, in its real dtype and its shape, or in `shapes`."""
    entries = prefix_leaves(name, prefix, params)
    targets = [leaf.array.shape for leaf in leaves] if shapes is None else shapes
    arrays = []
    for entry, leaf, shape in zip(entries, leaves, targets, strict=True):
        if not _broadcasts(jnp.shape(entry), shape):
            raise ValueError(
                f"{name} of shape {jnp.shape(entry)} does not fit parameter {leaf.name}: "
                f"must be a scalar or broadcast to shape {shape}"
            )
        arrays.append(jnp.broadcast_to(jnp.asarray(entry, leaf.real_dtype), shape))
    return arrays


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def total(values: Sequence[jax.Array]) -> jax.Array:
    """The sum of scalars, in the widest of their dtypes."""
    dtype = wide(*(value.dtype for value in values))
    return sum((value.astype(dtype) for value in values), start=jnp.zeros([], dtype))


def indicator(inside: Sequence[jax.Array]) -> jax.Array:
    """0 where all flags are set, else inf."""
    flag = jnp.all(jnp.stack(inside)) if inside else jnp.array(True)
    return jnp.where(flag, 0.0, jnp.inf)
