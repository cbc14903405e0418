"""The result of `minimize`: a solution, why it stopped, and how it got there."""

import enum
from typing import Any, NamedTuple

import jax
import optax

from nag_optax.solver import loop


class Reason(enum.IntEnum):
    """Why `minimize` stopped. `Reason(int(solution.reason)).name` reads the code of a solution."""

    CONVERGED = loop.CONVERGED
    """The gradient mapping at the returned parameters is within the tolerance."""
    MAX_STEPS = loop.MAX_STEPS
    """`max_steps` were taken."""
    STALLED = loop.STALLED
    """Nothing more is gained: the steps are lost in rounding, or a schedule of them has come to 0, and for
    a hundred steps and a quarter of all neither did the gradient mapping fall nor did x move on."""
    NAN = loop.NAN
    """The objective, a gradient or a parameter is not finite; the last finite iterate is returned."""


class History(NamedTuple):
    """F(x) and the norm of the gradient mapping after each step; NaN beyond the last.

    Under `jax_debug_nans`, where every NaN is an error, it is inf there.
    """

    value: jax.Array
    gradient_mapping_norm: jax.Array


class Solution(NamedTuple):
    """The result of `minimize`: arrays, so that it passes through jit and vmap.

    Attributes:
        params: x, in the tree and dtypes of `init_params`.
        value: F(x) = f(x) + g(x); f(x) alone where the prox does not know its penalty.
        gradient_mapping_norm: ‖x − prox(x − s·∇f(x), s)‖/s, evaluated at x with the latest s > 0;
            ‖∇f(x)‖ without a prox.
        gradient_scale: the norm that `tol` is relative to, apart from ‖∇f(x)‖; pass it on along a path.
        steps: steps taken, int32.
        value_evaluations: evaluations of the objective, those with a gradient included.
        gradient_evaluations: evaluations of the gradient.
        converged: True if and only if `reason` is `Reason.CONVERGED`.
        reason: code of `Reason`, int32.
        aux: what fun returns beside its value, at x; None without `has_aux`.
        history: a `History` of `max_steps` entries; None unless asked for.
    """

    params: optax.Params
    value: jax.Array
    gradient_mapping_norm: jax.Array
    gradient_scale: jax.Array
    steps: jax.Array
    value_evaluations: jax.Array
    gradient_evaluations: jax.Array
    converged: jax.Array
    reason: jax.Array
    aux: Any = None
    history: History | None = None
