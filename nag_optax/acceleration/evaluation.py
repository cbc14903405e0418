"""The iterate to evaluate: read x = p + e·w back out of any nesting of Optax wrappers."""

from collections.abc import Iterator
from typing import Any

import jax
import optax

from nag_optax._arrays import path_name
from nag_optax.acceleration.kernel import ScaleByNesterovState
from nag_optax.transforms.descent import DecayState
from nag_optax.transforms.orthogonalize import OrthogonalizeState
from nag_optax.transforms.stochastic_rounding import StochasticRoundingState


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

    Training moves p, the point where gradients are taken. The theorems are about x. For Nesterov's
    method e is −1, so that x = p − w. An optimizer around another one (snoo, ema_nesterov, gpa) decides
    in place of the inner one. Leaves that no accelerator holds are returned as they are: `nadamw`,
    `adan` and Optax's optimizers evaluate where they train. (`optax.contrib.schedule_free` does not,
    and has a function of its own.)

    The slow weights of snoo come from its latest outer step. Until the next one `params`, the fast
    weights, are ahead of them and usually better: evaluate `params` there.

    A state of your own takes part if it has a method `eval_params(params, *, learning_rate=None)`. It
    returns x in the tree of `params`, with other leaves unchanged. If it wraps another
    state, it calls this function on that state.

    Args:
        opt_state: the optimizer's state, however nested: chain, masked, partition, MultiSteps, flatten,
            inject_hyperparams, apply_if_finite, or `nnx.Optimizer.opt_state` as it is. The
            accelerator must be the last part of its chain; a masked one may be followed by masked
            parts for the other leaves. (The state of a named chain keeps no order to check.)
        params: the parameters that go with it, any tree, `nnx.state(model, nnx.Param)` included.
        learning_rate: the learning rate of the latest step, a scalar. Needed where the state is in
            gradient units, and exact there while the learning rate is constant; else not used.

    Returns:
        x, in the tree type and dtypes of `params`. Pure: works inside and outside jit.

    Raises:
        ValueError: if what follows the accelerator, or goes around it, may change its step, if two hold
            an offset for one leaf, if the state belongs to other parameters, or if a state in
            gradient units comes without `learning_rate`.
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
    if next(_knowing(params), None) is not None:
        raise ValueError("params hold the state of an accelerator: pass opt_state first, then params")
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    iterate = [p for _, p in flat]
    followers = []
    for state, after in _knowing(opt_state):
        x = state.eval_params(params, learning_rate=learning_rate)
        for i, ((path, p), new) in enumerate(zip(flat, treedef.flatten_up_to(x), strict=True)):
            # A leaf that the state does not hold comes back unchanged.
            if new is p:
                continue
            if iterate[i] is not p:
                raise ValueError(
                    f"two accelerators hold an offset for {path_name(path, 'the root')}, so there is no one "
                    "iterate: keep one accelerator for each leaf"
                )
            iterate[i] = new
            followers += after
    if followers:
        raise ValueError(
            f"opt_state has {type(followers[0]).__name__} after the accelerator or around it: if that "
            "changes the step, there is no iterate that the accelerator knows. Evaluate params as they are, "
            "or put accelerate, nag, fista … last and outermost; to freeze parameters, use optax.partition"
        )
    return treedef.unflatten(iterate)


# A decay and a rounding move iterate and parameters alike, and zero_nans changes no number.
_HARMLESS = DecayState | StochasticRoundingState | optax.ZeroNansState
# One scales the path of the optimizer inside, the other one averages it.
_REWRITING = optax.contrib.MechanicState | optax.contrib.ScheduleFreeState


def _knowing(node: Any, tails: tuple[list[Any], ...] = ()) -> Iterator[tuple[Any, list[Any]]]:
    """Each state that knows its iterate, and the states of the parts that may change its step later.

    `tails` holds one such list for each chain around this node, the outermost first.
    """
    if callable(getattr(type(node), "eval_params", None)):
        if tails and isinstance(node, ScaleByNesterovState):
            # In gradient units the learning rate must follow in the same chain. An orthogonalisation is none.
            tails = (*tails[:-1], [part for part in tails[-1] if isinstance(part, OrthogonalizeState)])
        yield node, [part for tail in tails for part in tail]
        return
    if isinstance(node, optax.MaskedState):
        # A masked state does not say which leaves it has. Beside a masked accelerator we assume others.
        tails = tuple([part for part in tail if not isinstance(part, optax.MaskedState)] for tail in tails)
    if isinstance(node, _REWRITING):
        tails = (*tails, [node])
    children = _children(node)
    for i, child in enumerate(children):
        # The state of a chain is a tuple. A named chain has a dictionary, which keeps no order.
        tail = [part for later in children[i + 1 :] for part in _parts(later)] if type(node) is tuple else []
        yield from _knowing(child, (*tails, tail) if tail else tails)


def _parts(node: Any) -> Iterator[Any]:
    """The states of transformations that may change a step; in Optax all of them are named tuples."""
    if type(node) in (tuple, list, dict):
        for child in _children(node):
            yield from _parts(child)
    elif isinstance(node, tuple) and not isinstance(node, _HARMLESS):
        yield node


def _children(node: Any) -> list[Any]:
    """The nodes one level below; an array has none."""
    return [
        child for child in jax.tree.leaves(node, is_leaf=lambda child: child is not node) if child is not node
    ]
