"""`training_step` and `predict` make a program of any loss and any optimizer."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from nag_optax.acceleration.evaluation import eval_params
from nag_optax.export.program import Program, trace


def training_step(
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    params: optax.Params,
    batch: Any,
    *,
    carry: Any = None,
    frozen: Any = False,
    batch_size: int | None = None,
    platforms: Sequence[str] | None = None,
) -> Program:
    """One step of training, with the state before the first one.

    ```
    g = ∇loss(p, batch),   Δ, state⁺ = optimizer(g, state, p),   p⁺ = p + Δ
    ```

    The state of the program has the parameters that move, the optimizer's state and the `carry`. The output
    is the loss. bfloat16 arrays, int8 arrays and the data of PRNG keys keep their dtypes.

    Args:
        loss: takes (params, batch) and returns a scalar. With a `carry` it takes (params, carry, batch) and
            returns the scalar and the next carry.
        optimizer: any optimizer of Optax or this package, with or without `low_memory`. It also gets the
            extra arguments `value`, `grad` and `value_fn`.
        params: the parameters to begin with.
        batch: a tree of arrays, or of their shapes and dtypes, with the examples along the first axis.
        carry: a tree of anything else that goes from step to step, such as batch statistics or a PRNG key;
            None if there is nothing.
        frozen: a tree of booleans, or a prefix of one, that is True for the parameters that stay. They
            become constants of the program, and cost no state.
        batch_size: the only batch size that the program takes, at least 1; None for every size.
        platforms: where the program runs, such as `["cpu", "cuda"]`; None for JAX's default backend.

    Returns:
        The program.

    Raises:
        ValueError: if an array of the batch has no axis, or a step changes the structure, a shape or a
            dtype of the state.

    Example:
        >>> import jax.numpy as jnp, nag_optax, numpy as np
        >>> from nag_optax.export import training_step
        >>> def loss(params, batch):
        ...     x, y = batch
        ...     return jnp.mean((x @ params["w"] - y) ** 2)
        >>> batch = np.ones((8, 3), np.float32), np.ones(8, np.float32)
        >>> step = training_step(loss, nag_optax.nag(0.1), {"w": jnp.zeros(3)}, batch)
        >>> [leaf.name for leaf in step.state]
        ['opt_state/1/offset/w', 'opt_state/1/evaluation', 'params/w']
        >>> state, (value,) = step(step.initial, batch)
        >>> state, (value,) = step(state, [array[:2] for array in batch])
        >>> print(f"{value:.4f}")
        0.0196

    Source: `jax.export`, whose documentation says how long a StableHLO program stays valid.
    """
    transformation = optax.with_extra_args_support(optimizer)

    def step(state: dict[str, Any], batch: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        params, carry = state["params"], state["carry"]

        def value_fn(trained: Any) -> Any:
            return _with_carry(loss, _joined(params, trained), carry, batch)

        trained = _trained(params, frozen)
        (value, carry), grads = jax.value_and_grad(value_fn, has_aux=True)(trained)
        updates, opt_state = transformation.update(
            grads, state["opt_state"], trained, value=value, grad=grads, value_fn=lambda p: value_fn(p)[0]
        )
        params = _joined(params, optax.apply_updates(trained, updates))
        return {"params": params, "opt_state": opt_state, "carry": carry}, {"loss": value}

    return trace(
        step,
        _state(transformation, params, carry, frozen),
        batch,
        frozen=_constant(frozen),
        batch_size=batch_size,
        platforms=platforms,
    )


def predict(
    model: Callable[..., Any],
    params: optax.Params,
    batch: Any,
    *,
    optimizer: optax.GradientTransformation | None = None,
    carry: Any = None,
    frozen: Any = False,
    batch_size: int | None = None,
    platforms: Sequence[str] | None = None,
) -> Program:
    """The outputs of a model, at the iterate to evaluate.

    ```
    model(x, batch),   x = eval_params(state, p)
    ```

    Args:
        model: takes (params, batch), or (params, carry, batch), and returns a tree of arrays.
        params: as in `training_step`.
        batch: as in `training_step`, without the arrays that only the loss needs.
        optimizer: the optimizer of a training step, if the program shall read the state of that step. None
            takes the parameters themselves.
        carry: as in `training_step`.
        frozen: as in `training_step`. True makes all parameters and the carry constants, so that the
            program needs no state.
        batch_size: as in `training_step`.
        platforms: as in `training_step`.

    Returns:
        The program. With the same parameters, optimizer, carry and frozen it takes the state of
        `training_step`.

    Raises:
        ValueError: if an array of the batch has no axis.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from nag_optax.export import predict
        >>> x = np.ones((1, 3), np.float32)
        >>> program = predict(lambda params, x: x @ params, jnp.arange(3.0), x, frozen=True)
        >>> program.state
        ()
        >>> _, (outputs,) = program([], [np.ones((2, 3), np.float32)])
        >>> outputs.tolist()
        [3.0, 3.0]
    """
    transformation = optax.with_extra_args_support(optimizer or optax.identity())

    def run(state: dict[str, Any], batch: Any) -> tuple[None, dict[str, Any]]:
        trained = eval_params(state["opt_state"], _trained(state["params"], frozen))
        params, carry = _joined(state["params"], trained), state["carry"]
        outputs = model(params, batch) if carry is None else model(params, carry, batch)
        return None, {"outputs": outputs}

    return trace(
        run,
        _state(transformation, params, carry, frozen),
        batch,
        frozen=_constant(frozen) | {"carry": frozen is True},
        batch_size=batch_size,
        platforms=platforms,
    )


def _state(optimizer: optax.GradientTransformation, params: Any, carry: Any, frozen: Any) -> dict[str, Any]:
    return {"params": params, "opt_state": optimizer.init(_trained(params, frozen)), "carry": carry}


def _constant(frozen: Any) -> dict[str, Any]:
    return {"params": frozen, "opt_state": False, "carry": False}


def _trained(params: Any, frozen: Any) -> Any:
    """The parameters that move. For the optimizer the others are masked."""
    flags = jax.tree.broadcast(frozen, params)
    return jax.tree.map(lambda p, fixed: optax.MaskedNode() if fixed else p, params, flags)


def _joined(params: Any, trained: Any) -> Any:
    """All parameters, with these for those that move."""
    return jax.tree.map(lambda p, new: p if isinstance(new, optax.MaskedNode) else new, params, trained)


def _with_carry(loss: Callable[..., Any], params: Any, carry: Any, batch: Any) -> tuple[Any, Any]:
    return (loss(params, batch), None) if carry is None else loss(params, carry, batch)
