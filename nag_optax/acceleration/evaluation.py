"""The iterate to evaluate: read x = p + e·w back out of any nesting of Optax wrappers."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nag_optax._dtypes import wide
from nag_optax.acceleration.iterate import IterateState, OuterState, StoredIterate
from nag_optax.acceleration.kernel import AccelerateState, ScaleByNesterovState

_Accelerator = AccelerateState | ScaleByNesterovState | IterateState | OuterState
_Reader = Callable[[jax.Array], jax.Array]


def eval_params(
    opt_state: optax.OptState,
    params: optax.Params,
    *,
    learning_rate: jax.typing.ArrayLike | None = None,
) -> optax.Params:
    """The parameters to evaluate, to save and to ship.

    ```
    x = p + e·w       w in parameter units (accelerate, nag)
    x = p − lr·e·w    w in gradient units (scale_by_nesterov, nag with accumulate="gradients")
    x                 kept as it is: with its exact zeros (fista), or the slow weights (snoo)
    ```

    Training moves p, the point where gradients are taken; the theorems are about x. e is −1 for
    Nesterov's method: x = p − w. An optimizer around another one (snoo, ema_nesterov, gpa) has the
    say over the iterate of the inner one. Leaves that no accelerator holds are returned as they are.

    Args:
        opt_state: the optimizer's state, however nested: chain, masked, partition, MultiSteps,
            inject_hyperparams, apply_if_finite, or `nnx.Optimizer.opt_state` as it is. The
            accelerator must be the last part that moves the parameters.
        params: the parameters that go with it, any tree, `nnx.state(model, nnx.Param)` included.
        learning_rate: the learning rate of the latest step, a scalar. Needed where the state is in
            gradient units, and exact there while the learning rate is constant; else not used.

    Returns:
        x, in the tree type and dtypes of `params`. Pure: works inside and outside jit.

    Raises:
        ValueError: if the state holds no accelerator, if two hold an offset for one leaf, if the
            state is not that of these parameters, or if a state in gradient units comes without
            `learning_rate`.
        TypeError: if `learning_rate` is a schedule; pass its value.

    Example:
        >>> import jax.numpy as jnp, optax, nag_optax
        >>> optimizer = nag_optax.nag(0.1, 0.9)
        >>> params = jnp.array(1.0)
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(jnp.array(1.0), state, params)
        >>> params = optax.apply_updates(params, updates)  # 1 − 0.1·(1 + 0.9)
        >>> print(f"{params:.2f} {nag_optax.eval_params(state, params):.2f}")
        0.81 0.90

    Source: the two sequences of Nesterov, 1983; written with one buffer as in the package's kernel.
    """
    if callable(learning_rate):
        raise TypeError("learning_rate must be a number, not a schedule: pass its value at the latest step")
    states = [s for s in jax.tree.leaves(opt_state, is_leaf=_is_accelerator) if _is_accelerator(s)]
    if not states:
        raise ValueError(
            "eval_params found no accelerator in opt_state, its first argument: pass opt_state, then "
            "params; for an optimizer without accelerate, nag, fista … evaluate params themselves"
        )

    treedef = jax.tree.structure(params)
    leaves = _leaves_with_path(params)
    readers: dict[Any, tuple[tuple[int, ...], _Reader]] = {}
    for state in states:
        for path, shape, reader in _readers(state, learning_rate):
            if path in readers:
                raise ValueError(
                    f"two accelerators hold an offset for {_name(path)}, so there is no one iterate: "
                    "keep one accelerator for each leaf"
                )
            readers[path] = shape, reader

    paths = {path: jnp.shape(p) for path, p in leaves}
    for path, (shape, _) in readers.items():
        if paths.get(path) != shape:
            what = "which params lack" if path not in paths else f"of another shape than {paths[path]}"
            raise ValueError(
                f"opt_state holds an offset for {_name(path)} of shape {shape}, {what}: "
                "pass the parameters that this state was made for; of an nnx module, "
                "nnx.state(model, nnx.Param)"
            )
    return treedef.unflatten([readers[path][1](p) if path in readers else p for path, p in leaves])


def has_accelerator(opt_state: optax.OptState) -> bool:
    """Whether `eval_params` finds an iterate in this state."""
    return any(_is_accelerator(node) for node in jax.tree.leaves(opt_state, is_leaf=_is_accelerator))


def _is_accelerator(node: Any) -> bool:
    return isinstance(node, _Accelerator)


def _readers(
    state: _Accelerator, learning_rate: jax.typing.ArrayLike | None
) -> Iterator[tuple[Any, tuple[int, ...], _Reader]]:
    """(path, shape, p ↦ x) for each leaf that this state holds; paths are those of the parameters."""
    held = state.evaluated if isinstance(state, OuterState) else state
    stored = isinstance(held, IterateState | StoredIterate)
    buffers = _leaves_with_path(held.iterate if stored else held.offset)
    if not buffers:
        return
    if stored:
        (started,) = jax.tree.leaves(held.started)
        for path, x in buffers:
            yield path, x.shape, _stored(_lanes(started, x), x)
        return
    # nnx wraps every array of the state: its one leaf is the array.
    (factor,) = jax.tree.leaves(held.evaluation)
    if isinstance(state, ScaleByNesterovState):
        if learning_rate is None:
            raise ValueError(
                "the offset of scale_by_nesterov (or nag with accumulate='gradients') is in gradient "
                "units: pass learning_rate=, the learning rate of the latest step"
            )
        factor = -jnp.asarray(learning_rate, factor.dtype) * factor
    for path, w in buffers:
        dtype = wide(w.dtype, factor.dtype)
        yield path, w.shape, _shifted(_lanes(factor, w).astype(dtype) * w.astype(dtype))


def _lanes(scalar: jax.Array, leaf: jax.Array) -> jax.Array:
    """A vmapped optimizer has one scalar for each lane."""
    return jnp.reshape(scalar, scalar.shape + (1,) * (leaf.ndim - scalar.ndim))


def _stored(started: jax.Array, x: jax.Array) -> _Reader:
    return lambda p: jnp.where(started, x.astype(jnp.result_type(p)), p)


def _shifted(shift: jax.Array) -> _Reader:
    def read(p: jax.Array) -> jax.Array:
        dtype = wide(jnp.result_type(p), shift.dtype)
        return (jnp.asarray(p, dtype) + shift.astype(dtype)).astype(jnp.result_type(p))

    return read


def _leaves_with_path(tree: Any) -> list[tuple[Any, jax.Array]]:
    """Leaves and their paths, less the `.value` with which an nnx tree ends each path."""
    wrapper = jax.tree_util.GetAttrKey("value")
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(path[:-1] if path[-1:] == (wrapper,) else path, leaf) for path, leaf in flat]


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path) or "the root"
