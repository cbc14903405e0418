"""`minimize`: F = f + g in one compiled loop, with a stopping test that can be believed; differentiable."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from nag_optax._meshes import varying_with
from nag_optax.acceleration import momentum as rules
from nag_optax.acceleration.restart import Restart
from nag_optax.optimizers.fista import fista
from nag_optax.prox.apply import penalty
from nag_optax.prox.base import Prox, ProxLike
from nag_optax.solver import loop
from nag_optax.solver.checks import check_options, check_problem
from nag_optax.solver.implicit import solve


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
    """F(x) and the norm of the gradient mapping after each step; NaN beyond the last."""

    value: jax.Array
    gradient_mapping_norm: jax.Array


class Solution(NamedTuple):
    """What `minimize` returns: arrays, so that it passes through jit and vmap.

    Attributes:
        params: x, in the tree and dtypes of `init_params`.
        value: F(x) = f(x) + g(x); f(x) alone where the prox does not know its penalty.
        gradient_mapping_norm: ‖x − prox(x − s·∇f(x), s)‖/s, evaluated at x with the latest s > 0;
            ‖∇f(x)‖ without a prox.
        gradient_scale: the norm that `tol` is relative to, less ‖∇f(x)‖; a path hands it on.
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


class _Static(NamedTuple):
    """What a compiled program is for; compared by equality, functions by identity."""

    fun: Callable
    prox: Any
    learning_rate: Any
    momentum: Any
    restart: Any
    optimizer: Any
    has_aux: bool
    history_length: int | None


class _Traced(NamedTuple):
    """What it is called with."""

    init_params: Any
    args: Any
    prox: Any
    learning_rate: Any
    momentum: Any
    tol: Any
    gradient_scale: Any
    max_steps: Any


def minimize(
    fun: Callable,
    init_params: optax.Params,
    *,
    prox: ProxLike | None = None,
    learning_rate: optax.ScalarOrSchedule | None = None,
    momentum: rules.Momentum = rules.fista(),  # noqa: B008 (a rule is immutable)
    restart: Restart | None = "gradient",
    optimizer: optax.GradientTransformation | None = None,
    tol: jax.typing.ArrayLike = 1e-6,
    gradient_scale: jax.typing.ArrayLike = 0.0,
    max_steps: int = 10_000,
    has_aux: bool = False,
    args: tuple[Any, ...] = (),
    history: bool = False,
) -> Solution:
    """Minimizes F(x) = f(x) + g(x), f smooth, g through its prox, in one compiled loop.

    ```
    M(x) = ‖x − prox(x − s·∇f(x), s)‖/s        converged:  M(x) ≤ tol·max(scale, ‖∇f(x)‖)
    scale = max(‖∇f(x₀)‖, ‖∇²f(x₀)·x₀‖, gradient_scale)
    ```

    The method is `fista(learning_rate, prox, momentum=, restart=)`, or any Optax optimizer. M is
    evaluated anew at the x that is returned, with the latest s > 0. The test does not change when fun
    is multiplied by a number (the penalty with it) or x is rescaled, while f, ∇f, M, s and tol·scale
    are normal numbers: in float32 from 1e-38 to 3e38, and what is smaller counts as 0.

    A start near the solution, where ∇f is small, has the second term of the scale: the change of ∇f if
    x₀ changed by itself. So warm starts ask for no more than cold ones. Along a path of problems,
    `gradient_scale=` the `gradient_scale` of the problem before solves all to the same accuracy.

    Where rounding forbids the tolerance, which happens in float32, the reason is STALLED and never
    CONVERGED. The rounding of ∇f itself is not seen: if the terms of its sum cancel, as with a target
    of mean 1e4 and centred features, float32 may report 4e-6 of the scale where 4e-4 is true. Centre
    the data, or use float64.

    For convex f and s ≤ 2/L, F(x⁺) − F* ≤ M(x)·‖x⁺ − x*‖ for x⁺ one step on from x. Backtracking tests
    its s along the steps that it takes, so that s may be above 2/L and the bound then fail. With a
    prox, CONVERGED needs that the curvature between x and x⁺ is at most 4/s, since in a bounded set a
    learning rate far above 2/L makes M small at every point.

    Derivatives with respect to `args`, to the strengths of a `Prox` and to arrays that `fun` closes
    over are those of the fixed point x = prox(x − s·∇f(x), s), forward and reverse; the loop itself
    is not differentiated. x must be determined: on the coordinates that are not fixed by g, the Hessian
    of f must be invertible. The linear system is solved by GMRES of `jax.scipy`, to a residual of 100
    roundings, so that of its condition number κ times 1e-14 (float64) or 1e-5 (float32) may be the
    relative error. Where that residual is not reached, every derivative is NaN.

    Args:
        fun: `fun(params, *args) -> f`, a real scalar, or `(f, aux)` with `has_aux`. It is compiled
            once for each function object and shape: pass what changes in `args`.
        init_params: x₀, a tree of floating or complex arrays.
        prox: the prox of g: an operator of `nag_optax.prox` or any callable `prox(params, step_size)`.
        learning_rate: the step size, a number or an Optax schedule; None to backtrack.
        momentum: the rule, a number or an Optax schedule, as in `fista`.
        restart: "gradient", "speed", "value" or None, as in `fista`.
        optimizer: takes the place of `fista`. Its updates are applied, and it has to take the prox
            itself (`proximal`); `prox` and `learning_rate` then serve the stopping test, which needs
            both or neither. `value`, `grad` and `value_fn`, those of f alone, are passed to it, and x
            is its `eval_params`.
        tol: relative tolerance, a number in [0, 1).
        gradient_scale: a norm ≥ 0, in units of ∇f, that the tolerance is at least relative to; with
            gradient_scale = a/tol the tolerance is a at least.
        max_steps: the largest number of steps, at least 1.
        has_aux: whether `fun` returns more than its value.
        args: further arguments of `fun`, a tuple of trees of arrays.
        history: whether to record F(x) and M of each step. With a learning rate or an optimizer it
            takes one more evaluation of the objective a step.

    Returns:
        A `Solution`. Works under jit, vmap and on sharded parameters.

    Raises:
        ValueError: if fun does not return a scalar, the prox changes the tree or a shape, a Python
            number is out of range, or an optimizer comes with one of prox and learning_rate alone.
        TypeError: if a parameter is not of floating or complex dtype, the prox changes a dtype, or an
            argument is of the wrong kind.

    Example:
        >>> import jax, jax.numpy as jnp, nag_optax
        >>> matrix, target = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([4.0, 0.5])
        >>> def fit(x, target):
        ...     return 0.5 * jnp.sum((matrix @ x - target) ** 2)
        >>> def lasso(strength):
        ...     prox = nag_optax.prox.l1(strength)
        ...     return nag_optax.minimize(fit, jnp.zeros(2), prox=prox, args=(target,))
        >>> solution = lasso(1.0)
        >>> print(solution.params.round(4), bool(solution.converged))
        [1.75 0.  ] True
        >>> print(jax.jacobian(lambda strength: lasso(strength).params)(1.0).round(4))
        [-0.25  0.  ]

    Source: the method is that of `fista`; derivatives after Bertrand, Klopfenstein, Massias, Blondel,
    Vaiter, Gramfort and Salmon, *Implicit differentiation for fast hyperparameter selection in
    non-smooth convex learning*, 2022.
    """
    check_options(fun, prox, learning_rate, optimizer, tol, gradient_scale, max_steps, args)
    if optimizer is None:
        fista(learning_rate, prox, momentum=momentum, restart=restart)
    init_params = jax.tree.map(jnp.asarray, init_params)

    prox_static, prox_traced = _split(prox)
    rate_static, rate_traced = _split(learning_rate)
    momentum_static, momentum_traced = _split(momentum)
    static = _Static(
        fun,
        prox_static,
        rate_static,
        momentum_static,
        restart,
        optimizer,
        has_aux,
        int(max_steps) if history else None,
    )
    traced = _Traced(
        init_params, args, prox_traced, rate_traced, momentum_traced, tol, gradient_scale, max_steps
    )
    try:
        hash(static)
    except TypeError:
        return _minimize(static, traced)
    return _compiled(static, traced)


def _minimize(static: _Static, traced: _Traced) -> Solution:
    prox = static.prox if traced.prox is None else traced.prox
    # Here, because this runs when a problem of new shapes is traced, and not at every call.
    types = check_problem(static.fun, traced.init_params, prox, static.has_aux, traced.args)
    # Inside shard_map each device has a problem of its own where any part of the problem varies.
    init_params = varying_with(traced.init_params, (types, traced._replace(init_params=(), args=())))
    learning_rate = static.learning_rate if traced.learning_rate is None else traced.learning_rate
    momentum = static.momentum if traced.momentum is None else traced.momentum
    optimizer = static.optimizer
    if optimizer is None:
        optimizer = fista(learning_rate, prox, momentum=momentum, restart=static.restart)

    fun = _with_shared_constants(static.fun, init_params, traced.args)

    def value_and_aux(params: optax.Params) -> tuple[jax.Array, Any]:
        result = fun(params, *traced.args)
        return result if static.has_aux else (result, None)

    problem = loop.Problem(
        lambda params: value_and_aux(params)[0],
        prox,
        optax.with_extra_args_support(optimizer),
        learning_rate,
    )
    limits = loop.Limits(
        jnp.asarray(traced.tol, float), jnp.asarray(traced.gradient_scale, float), traced.max_steps
    )
    params, report = solve(problem, init_params, limits, static.history_length)
    value, aux = value_and_aux(params)
    return Solution(
        params=params,
        value=value + penalty(prox, params).astype(value.dtype),
        gradient_mapping_norm=report.gradient_mapping_norm,
        gradient_scale=report.gradient_scale,
        steps=report.steps,
        value_evaluations=report.value_evaluations + 1,
        gradient_evaluations=report.gradient_evaluations,
        converged=report.reason == loop.CONVERGED,
        reason=report.reason,
        aux=aux,
        history=None if report.history is None else History(*report.history),
    )


_compiled = jax.jit(_minimize, static_argnums=0)


def _with_shared_constants(fun: Callable, params: optax.Params, args: tuple[Any, ...]) -> Callable:
    """The same function, for these shapes; the arrays that it closes over stay one buffer each.

    XLA copies a constant into every loop and branch that reads it, and data that would fit the cache
    once then do not: a step of nonnegative least squares on 600×200 took twice as long.
    """
    closed, shape = jax.make_jaxpr(fun, return_shape=True)(params, *args)
    constants = jax.lax.optimization_barrier(closed.consts)
    shared = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))

    def with_shared_constants(*arguments: Any) -> Any:
        return jax.tree.unflatten(jax.tree.structure(shape), shared(*jax.tree.leaves(arguments)))

    return with_shared_constants


def _split(option: Any) -> tuple[Any, Any]:
    """(static, traced): arrays, numbers and trees of them are traced, so that another value compiles
    nothing; functions are static."""
    leaves = jax.tree.leaves(option)
    # A prox may have no leaf, as that of a bound at 0: two of them are one as trees, not as objects.
    numbers = int | float | np.ndarray | np.generic | jax.Array
    if (leaves or isinstance(option, Prox)) and all(isinstance(leaf, numbers) for leaf in leaves):
        return None, option
    return option, None
