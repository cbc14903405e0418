"""The group lasso: whole groups of coordinates become zero together."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nag_optax._arguments import check_numbers
from nag_optax._arrays import array_norm, on_auto_axes, wide
from nag_optax.prox.base import (
    Frozen,
    Leaf,
    Params,
    Prox,
    Strength,
    leaves_of,
    narrowed,
    prefix_leaves,
    spread,
    total,
)
from nag_optax.prox.shrinkage import shrink


def group_l2(strength: Strength, axis: Any = None, *, joint: bool = False) -> Prox:
    """The group lasso, whose prox shrinks the norm of each group: zeros, a group at a time.

    ```
    g(z) = Σ_G λ_G‖z_G‖₂        prox(p)_G = max(1 − s·λ_G/‖p_G‖₂, 0)·p_G
    ```

    Args:
        strength: λ ≥ 0 of each group; a number, an array that broadcasts to the norms (the shape of
            the parameter without `axis`), or a tree of these that is a prefix of the parameters. With
            `joint`, a number or an array. May be traced.
        axis: what a group is made of, as in `jnp.linalg.norm`. None: each leaf is one group. An int or
            a tuple of ints: the norm goes over these axes of every leaf, so that axis=0 makes each
            column of a matrix a group; () makes each coordinate one. Or a tree of these that is a
            prefix of the parameters (None does for a leaf there too).
        joint: the groups run through all leaves: group j is the j-th one of each leaf together, so
            that the norms of all leaves must have one shape. With axis None the whole tree is one
            group. A hidden unit, its weights and its bias, is
            `group_l2(strength, {"kernel": 0, "bias": ()}, joint=True)`.

    Returns:
        A `Prox`.

    Raises:
        ValueError: if a Python number or NumPy array in `strength` is negative, infinite or NaN; when
            called, if an axis is out of range for a leaf, or the norms of joint groups differ in shape.
        TypeError: if a leaf of `strength` is not a real number or array, or one of `axis` is neither
            None, an int nor a tuple of ints.

    Example:
        >>> import jax.numpy as jnp, nag_optax
        >>> prox = nag_optax.prox.group_l2(1.0, axis=0)
        >>> prox(jnp.array([[3.0, 0.5], [4.0, 0.5]]), 1.0)
        Array([[2.4, 0. ],
               [3.2, 0. ]], dtype=float32)

    Source: Yuan and Lin, *Model selection and estimation in regression with grouped variables*, 2006;
    Parikh and Boyd, *Proximal algorithms*, 2014, section 6.5.4.
    """
    check_numbers("strength", strength, minimum=0)
    for leaf in jax.tree.leaves(axis, is_leaf=_is_axis):
        if not _is_axis(leaf):
            raise TypeError(f"axis must be None, an int, a tuple of ints or a tree of these; got {leaf!r}")
    if joint and not jax.tree_util.all_leaves([strength]):
        raise ValueError(f"strength must be a number or an array where joint=True; got {strength!r}")
    axes = Frozen.of(jax.tree.map(_Axis, axis, is_leaf=_is_axis))
    return Prox("group_l2", _group_l2, _group_l2_value, (strength,), (("axis", axes), ("joint", joint)))


@dataclasses.dataclass(frozen=True)
class _Axis:
    """An axis argument as a leaf of a tree, which a tuple and None are not."""

    axis: int | tuple[int, ...] | None

    def __repr__(self) -> str:
        return repr(self.axis)

    def of(self, leaf: Leaf) -> tuple[int, ...]:
        ndim = leaf.array.ndim
        if self.axis is None:
            return tuple(range(ndim))
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        if not all(-ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
            raise ValueError(
                f"axis {self.axis} does not fit parameter {leaf.name} of shape {leaf.array.shape}: "
                f"must be different numbers in [-{ndim}, {ndim})"
            )
        return axes


def _is_axis(node: Any) -> bool:
    is_int = isinstance(node, int) and not isinstance(node, bool)
    return node is None or is_int or (type(node) is tuple and all(isinstance(a, int) for a in node))


class _Group(NamedTuple):
    """The groups of one leaf: the axes that they sum over, and their norms and strengths without these."""

    leaf: Leaf
    axes: tuple[int, ...]
    norms: jax.Array
    strengths: jax.Array


def _groups(params: Params, strength: Strength, axis: Frozen, joint: bool) -> tuple[list[_Group], Any]:
    leaves, treedef = leaves_of(params, "group_l2")
    axes = [a.of(leaf) for a, leaf in zip(prefix_leaves("axis", axis.tree, params), leaves, strict=True)]
    norms = [array_norm(leaf.array, a) for a, leaf in zip(axes, leaves, strict=True)]
    if joint and norms:
        if len({n.shape for n in norms}) > 1:
            found = ", ".join(f"{n.shape} of {leaf.name}" for n, leaf in zip(norms, leaves, strict=True))
            raise ValueError(f"axis must leave norms of one shape where joint=True; got {found}")
        # A mesh may split the leaves in different ways. This is no scalar, but every device has it, like one.
        norms = [on_auto_axes(_joined, 0.0, norms)] * len(norms)
    strengths = spread("strength", strength, params, leaves, [n.shape for n in norms])
    return [_Group(*group) for group in zip(leaves, axes, norms, strengths, strict=True)], treedef


def _joined(norms: list[jax.Array]) -> jax.Array:
    dtype = wide(*(n.dtype for n in norms))
    return array_norm(jnp.stack([n.astype(dtype) for n in norms]), (0,))


def _group_l2(
    params: Params, step_size: jax.typing.ArrayLike, strength: Strength, axis: Frozen, joint: bool
) -> Params:
    groups, treedef = _groups(params, strength, axis, joint)
    shrunk = []
    for leaf, axes, norms, strengths in groups:
        thresholds = jnp.asarray(step_size, leaf.real_dtype) * strengths
        norms, thresholds = (jnp.expand_dims(a, axes) for a in (norms.astype(leaf.real_dtype), thresholds))
        shrunk.append(shrink(leaf.array, norms, thresholds))
    return narrowed(treedef, [group.leaf for group in groups], shrunk)


def _group_l2_value(params: Params, strength: Strength, axis: Frozen, joint: bool) -> jax.Array:
    groups, _ = _groups(params, strength, axis, joint)
    if joint:  # the same groups in every leaf
        groups = groups[:1]
    return total([jnp.sum(g.strengths.astype(g.norms.dtype) * g.norms) for g in groups])
