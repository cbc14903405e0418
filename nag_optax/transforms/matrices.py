"""Which axes of an array are the rows and the columns of matrices."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nag_optax._arguments import hint_of_injection
from nag_optax._arrays import is_none, misfit, path_name

Axes = int | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """How an array holds matrices: axes for the rows, axes for the columns, a stack over the others.

    Several axes count as one, in the order given. For a kernel as Flax has it, y = xW, rows are
    inputs and columns are outputs.

    Args:
        rows: an axis or several; negative ones count from the end.
        columns: the same. No axis is both.

    Raises:
        TypeError: if an axis is no integer.
        ValueError: if there is no axis for the rows or the columns, or one is named twice.

    Example:
        >>> from nag_optax import Matrix
        >>> convolution = Matrix(rows=(0, 1, 2), columns=3)  # (height, width, in, out)
        >>> layers = Matrix(rows=-2, columns=-1)  # (layers, in, out): one matrix a layer
        >>> heads = Matrix(rows=0, columns=2)  # (d, heads, head_dim): one matrix a head
        >>> together = Matrix(rows=0, columns=(1, 2))  # the same array as one matrix

    Source: as `optax.contrib.MuonDimensionNumbers`.
    """

    rows: Axes
    columns: Axes

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            axes = _axes(getattr(self, name))
            if not axes:
                raise ValueError(f"{name} must be an axis or several; got {getattr(self, name)!r}")
            for axis in axes:
                if not isinstance(axis, int) or isinstance(axis, bool):
                    raise TypeError(f"{name} must be integers; got {axis!r} of type {type(axis).__name__}")
        if len({*_axes(self.rows), *_axes(self.columns)}) < len(_axes(self.rows)) + len(_axes(self.columns)):
            raise ValueError(f"an axis is named twice: {self}")

    def of(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The axes (stack, rows, columns) of an array of this shape, none negative."""
        rank = len(shape)
        rows, columns = ([range(rank)[axis] for axis in _axes(given)] for given in (self.rows, self.columns))
        named = {*rows, *columns}
        if len(named) < len(rows) + len(columns):
            raise IndexError
        return tuple(axis for axis in range(rank) if axis not in named), tuple(rows), tuple(columns)


Choice = bool | Matrix | None
Matrices = Any | Callable[[Any, jax.Array], Choice] | Callable[[Any], Any]


def matrices_of(matrices: Matrices, tree: Any) -> list[Matrix | None]:
    """How each leaf of the tree holds matrices; None where it holds none."""
    # One boolean for all may be a function that `inject_hyperparams` has called.
    if hint := hint_of_injection(matrices):
        raise TypeError(f"{_ALLOWED}; got {matrices!r} alone{hint}")
    if callable(matrices):
        matrices = _asked(matrices, tree)
    for choice in jax.tree.leaves(matrices):
        if not isinstance(choice, bool | np.bool_ | Matrix):
            raise TypeError(f"{_ALLOWED}; got {choice!r} of type {type(choice).__name__}")
    try:
        spread = jax.tree.map(
            lambda choice, part: [choice] * len(jax.tree.leaves(part)), matrices, tree, is_leaf=is_none
        )
    except ValueError:
        raise ValueError(f"{_ALLOWED}; {misfit(matrices, tree)}") from None
    choices = jax.tree.leaves(spread, is_leaf=is_none)
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [_fitted(choice, path, leaf) for choice, (path, leaf) in zip(choices, leaves, strict=True)]


def shape_of(shape: tuple[int, ...], matrix: Matrix) -> tuple[int, int, int]:
    """(matrices, rows, columns) of an array of this shape."""
    stack, rows, columns = (math.prod(shape[axis] for axis in axes) for axes in matrix.of(shape))
    return stack, rows, columns


def to_stack(x: jax.Array, matrix: Matrix) -> jax.Array:
    """The array as (matrices, rows, columns)."""
    stack, rows, columns = matrix.of(x.shape)
    return x.transpose(stack + rows + columns).reshape(shape_of(x.shape, matrix))


def from_stack(stacked: jax.Array, matrix: Matrix, shape: tuple[int, ...]) -> jax.Array:
    """The array of this shape that holds these matrices."""
    stack, rows, columns = matrix.of(shape)
    order = stack + rows + columns
    return stacked.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


_ALLOWED = (
    "matrices must be a tree that the parameters extend, of True, False, None or nag_optax.Matrix; or a "
    "function of (path, leaf), or one of the parameters, that gives it"
)


def _asked(function: Callable[..., Any], tree: Any) -> Any:
    """The answer of a function of (path, leaf) for each leaf, or of a function of all parameters."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return function(tree)
    return jax.tree_util.tree_map_with_path(function, tree)


def _axes(axes: Axes) -> tuple[int, ...]:
    return tuple(axes) if isinstance(axes, Sequence) else (axes,)


def _fitted(choice: Choice, path: Any, leaf: Any) -> Matrix | None:
    if choice is None or not isinstance(choice, Matrix) and not choice:
        return None
    shape = jnp.shape(leaf)
    if len(shape) < 2:
        raise ValueError(f"a matrix has two axes or more; {path_name(path)} has shape {shape}")
    if not isinstance(choice, Matrix):
        return Matrix(range(len(shape) - 1), -1)
    try:
        choice.of(shape)
    except IndexError:
        raise ValueError(f"{choice} is none of {path_name(path)}, which has shape {shape}") from None
    return choice
