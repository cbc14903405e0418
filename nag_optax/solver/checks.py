"""Checks of the arguments of `minimize`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nag_optax._arguments import check_number
from nag_optax._arrays import path_name
from nag_optax.prox.apply import check_prox, proximal_point


def check_options(fun, prox, learning_rate, optimizer, tol, gradient_scale, max_steps, args) -> None:
    """Everything that can be checked from the arguments alone."""
    if not callable(fun):
        raise TypeError(f"fun must be callable; got {fun!r} of type {type(fun).__name__}")
    if prox is not None:
        check_prox(prox)
    check_number("tol", tol, minimum=0, below=1)
    check_number("gradient_scale", gradient_scale, minimum=0)
    if isinstance(max_steps, bool) or not isinstance(max_steps, int | np.integer):
        raise TypeError(f"max_steps must be an integer in [1, 2147483647]; got {max_steps!r}")
    if not 1 <= max_steps <= 2**31 - 1:
        raise ValueError(f"max_steps must be an integer in [1, 2147483647]; got {max_steps}")
    if not isinstance(args, tuple):
        raise TypeError(
            f"args must be a tuple; got {type(args).__name__}: write args=(data,) for one argument"
        )
    if optimizer is None:
        return
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer must be an Optax transformation; got {type(optimizer).__name__}")
    if (prox is None) != (learning_rate is None):
        raise ValueError(
            "with an optimizer the stopping test needs both prox and learning_rate, the step size at "
            "which the optimizer takes the prox, or neither"
        )


def check_params(params: optax.Params) -> None:
    if not jax.tree.leaves(params):
        raise ValueError("init_params must hold at least one array; got none")
    for path, p in jax.tree_util.tree_flatten_with_path(params)[0]:
        if not jnp.issubdtype(p.dtype, jnp.inexact):
            name = path_name(path)
            raise TypeError(
                f"init_params must be of floating or complex dtype; parameter {name} has dtype {p.dtype}"
            )


def check_result(result: Any, has_aux: bool) -> None:
    """Checks the type of the result of fun."""
    if has_aux:
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError("with has_aux, fun must return (value, aux); got " + repr(result))
        result = result[0]
    if not isinstance(result, jax.ShapeDtypeStruct) or result.shape != ():
        raise ValueError(f"fun must return a scalar; got {result}")
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise TypeError(f"fun must return a real floating scalar; got dtype {result.dtype}")


def check_operator(prox: Any, params: optax.Params) -> None:
    """Checks the types of the result of the prox."""
    jax.eval_shape(lambda p: proximal_point(prox, p, p, 1.0), params)
