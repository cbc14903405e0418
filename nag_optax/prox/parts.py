"""Different penalties on different parameters."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from nag_optax.prox.apply import check_prox
from nag_optax.prox.base import Frozen, Params, Prox, ProxLike, prefix_leaves, total

Part = Any  # a path, a mask, or a function of the parameters that gives a mask


def separable(parts: Mapping[Part, ProxLike] | Iterable[tuple[Part, ProxLike]]) -> Prox:
    """A penalty for each part of the parameters; the rest stays as it is.

    ```
    g(z) = Σ_k g_k(z_k)        prox(p)_k = prox_k(p_k)
    ```

    Args:
        parts: a mapping from part to prox, or pairs of both where a part cannot be hashed. A part is

            - a path: the names on the way to a parameter or a subtree, joined by "/", such as
              "dense/kernel" or "layers/0". Its prox is given that parameter or subtree alone.
            - a mask: a tree of bools that is a prefix of the parameters, or a function of the parameters
              that gives one. Its prox is given the whole tree, with `optax.MaskedNode` where the mask
              is False.

            A prox is a `Prox`, or any callable `prox(params, step_size) -> params`; that has no
            value, then.

    Returns:
        A `Prox`.

    Raises:
        ValueError: when called, if a path names no parameter, a mask is no prefix of the parameters, or
            two parts have a parameter in common. Paths that contain each other are seen at once.
        TypeError: if a part is neither a path, a mask nor a function, or a prox is not callable.

    Example:
        >>> import jax.numpy as jnp
        >>> from nag_optax.prox import l1, nonnegative, separable
        >>> prox = separable({"dense/kernel": l1(1.0), "scale": nonnegative()})
        >>> dense = {"kernel": jnp.array([3.0, 0.5]), "bias": jnp.ones(1)}
        >>> prox({"dense": dense, "scale": jnp.array(-1.0)}, 1.0)
        {'dense': {'bias': Array([1.], dtype=float32), 'kernel': Array([2., 0.], dtype=float32)},
         'scale': Array(0., dtype=float32)}

    Source: Parikh and Boyd, *Proximal algorithms*, 2014, section 2.1.
    """
    try:
        pairs = [(part, prox) for part, prox in (parts.items() if isinstance(parts, Mapping) else parts)]
    except (TypeError, ValueError):
        raise TypeError(
            f"parts must be a mapping from part to prox, or pairs of them; got {parts!r} of type "
            f"{type(parts).__name__}"
        ) from None
    for _, prox in pairs:
        check_prox(prox, "a prox of separable")
    keys = tuple(_key(part) for part, _ in pairs)
    paths = [key for key in keys if isinstance(key, str)]
    for i, one in enumerate(paths):
        for other in paths[i + 1 :]:
            if _covers(one, other) or _covers(other, one):
                raise ValueError(f"the parts of separable must not overlap; got {one!r} and {other!r}")
    proxes = tuple(prox if isinstance(prox, Prox) else _custom(prox) for _, prox in pairs)
    known = all(prox.evaluate is not None for prox in proxes)
    return Prox("separable", _separable, _separable_value if known else None, (proxes,), (("keys", keys),))


def _key(part: Part) -> str | Frozen | Callable[[Params], Any]:
    """The part as an option that can be hashed."""
    if isinstance(part, str) or callable(part):
        return part
    _check_mask(part)
    return Frozen.of(part)


def _check_mask(mask: Any) -> None:
    for leaf in jax.tree.leaves(mask):
        if not isinstance(leaf, bool | np.bool_):
            raise TypeError(
                "a part of separable must be a path, a tree of bools, or a function of the parameters that "
                f"gives one; got {leaf!r} of type {type(leaf).__name__} in {mask!r}"
            )


def _custom(prox: ProxLike) -> Prox:
    return Prox("custom", _call, None, (), (("prox", prox),))


def _call(params: Params, step_size: jax.typing.ArrayLike, prox: ProxLike) -> Params:
    return prox(params, step_size)


def _separable(
    params: Params, step_size: jax.typing.ArrayLike, proxes: tuple[Prox, ...], keys: tuple[Any, ...]
) -> Params:
    leaves, treedef = jax.tree.flatten(params)
    for key, prox, (indices, tree) in zip(keys, proxes, _parts(params, keys), strict=True):
        result = prox(tree, step_size)
        if jax.tree.structure(result) != jax.tree.structure(tree):
            raise ValueError(
                f"the prox of part {_shown(key)} must return the tree that it is given, "
                f"{jax.tree.structure(tree)}; got {jax.tree.structure(result)}"
            )
        for i, leaf in zip(indices, jax.tree.leaves(result), strict=True):
            leaves[i] = leaf
    return treedef.unflatten(leaves)


def _separable_value(params: Params, proxes: tuple[Prox, ...], keys: tuple[Any, ...]) -> jax.Array:
    parts = zip(proxes, _parts(params, keys), strict=True)
    return total([prox.value(tree) for prox, (_, tree) in parts])


def _parts(params: Params, keys: tuple[Any, ...]) -> list[tuple[list[int], Any]]:
    """For each part the numbers of its leaves, and the tree that its prox is given."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    names = [_path(path) for path, _ in flat]
    owners: dict[int, Any] = {}
    parts = []
    for key in keys:
        if isinstance(key, str):
            indices = [i for i, name in enumerate(names) if _covers(key, name)]
            tree = _subtree(params, key, names)
        else:
            flags = _flags(key, params)
            indices = [i for i, flag in enumerate(flags) if flag]
            tree = treedef.unflatten(
                [leaf if flag else optax.MaskedNode() for (_, leaf), flag in zip(flat, flags, strict=True)]
            )
        for i in indices:
            if i in owners:
                raise ValueError(
                    f"the parts of separable must not overlap; got {_shown(owners[i])} and {_shown(key)}, "
                    f"which both hold parameter {names[i]!r}"
                )
            owners[i] = key
        parts.append((indices, tree))
    return parts


def _subtree(params: Params, key: str, names: list[str]) -> Any:
    nodes = jax.tree_util.tree_flatten_with_path(
        params, is_leaf=lambda path, _: _path(path) == key, is_leaf_takes_path=True
    )[0]
    for path, node in nodes:
        if _path(path) == key:
            return node
    known = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    raise ValueError(f"separable found no parameter or subtree {key!r}; the parameters are {known or 'none'}")


def _flags(key: Frozen | Callable[[Params], Any], params: Params) -> list[bool]:
    mask = key.tree if isinstance(key, Frozen) else key(params)
    _check_mask(mask)
    return [bool(flag) for flag in prefix_leaves("a mask of separable", mask, params)]


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _covers(key: str, name: str) -> bool:
    return key in ("", name) or name.startswith(key + "/")


def _shown(key: Any) -> str:
    return getattr(key, "__name__", repr(key))
