"""`minimize`: F = f + g in one compiled loop, with a stopping test that can be believed; differentiable."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType

from nag_optax._arrays import varying_with
from nag_optax.acceleration import momentum as rules
from nag_optax.acceleration.momentum.restarting import Restart
from nag_optax.optimizers.fista import fista
from nag_optax.prox.apply import proximal_point
from nag_optax.prox.base import ProxLike
from nag_optax.solver.checks import check_options, check_params, check_result
from nag_optax.solver.closed import close
from nag_optax.solver.problem import FISTA, Problem, prox_as_data, rule_as_data, schedule_as_data
from nag_optax.solver.program import Options, program
from nag_optax.solver.solution import Solution


def minimize(
    fun: Callable,
    init_params: optax.Params,
    *,
    prox: ProxLike | None = None,
    learning_rate: optax.ScalarOrSchedule | None = None,
    momentum: rules.Momentum = FISTA,
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
    and the penalty are multiplied by a number, or when x is rescaled, as long as f, ∇f, M, s and
    tol·scale are normal numbers. In float32 these go from 1e-38 to 3e38, and smaller ones count as 0.

    At a start near the solution ∇f is small, and the second term sets the scale: the change of ∇f if x₀
    changed by itself. So warm starts ask for no more than cold ones. Along a path of problems, pass the
    `gradient_scale` of each solution to the next problem, and all are solved to the same accuracy.

    If rounding forbids the tolerance, which happens in float32, the reason is STALLED and never
    CONVERGED. The rounding of ∇f itself is not seen. If the terms of its sum cancel, as with a target of
    mean 1e4 and centred features, float32 may report 4e-6 of the scale where 4e-4 is true. Centre the
    data, or use float64.

    For convex f and s ≤ 2/L, F(x⁺) − F* ≤ M(x)·‖x⁺ − x*‖, where x⁺ is one step on from x. Backtracking
    tests s only along the steps that it takes, so that s may be above 2/L and the bound may fail. In a
    bounded set a learning rate far above 2/L makes M small at every point. So with a prox, CONVERGED
    also needs a curvature of at most 4/s between x and x⁺.

    The solution has derivatives, forward and reverse, with respect to `args`, to the strengths of a
    `Prox` and to arrays that the functions close over. They are the derivatives of the fixed point
    x = prox(x − s·∇f(x), s); the loop itself is not differentiated. x must be determined: on the
    coordinates that g does not fix, the Hessian of f must be invertible. GMRES solves the linear system
    to a residual of 100 times the rounding. The relative error is then at most the condition number
    times 1e-14 in float64, or 1e-5 in float32. If GMRES does not get there, every derivative is NaN.

    Each call traces `fun`, and the callables among `prox`, `learning_rate` and `momentum`, as they are at
    that moment. If the traces equal those of an earlier call, its compiled program serves again, and the
    arrays that the functions close over are passed to it. So new data compile nothing, but a number that a
    function closes over is part of the program. Functions with their own derivative rule
    (`jax.custom_jvp`) are compiled at each call, unless they are under `jax.jit`.

    Args:
        fun: `fun(params, *args) -> f`, a real scalar, or `(f, aux)` with `has_aux`.
        init_params: x₀, a tree of floating or complex arrays.
        prox: the prox of g: an operator of `nag_optax.prox` or any callable `prox(params, step_size)`.
        learning_rate: the step size, a number or an Optax schedule; None to backtrack.
        momentum: the rule, a number or an Optax schedule, as in `fista`.
        restart: "gradient", "speed", "value" or None, as in `fista`.
        optimizer: an Optax optimizer in place of `fista`. It has to apply the prox itself, by
            `proximal`. `prox` and `learning_rate` then serve only the stopping test, which needs both
            or neither. The optimizer is given `value`, `grad` and `value_fn` of f without the penalty,
            and x is its `eval_params`. Leave out `momentum` and `restart`. A new object is compiled
            anew.
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
            number is out of range, or an optimizer comes with momentum, with restart, or with one of prox
            and learning_rate alone.
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

    Source: as `fista`; derivatives after Bertrand, Klopfenstein, Massias, Blondel,
    Vaiter, Gramfort and Salmon, *Implicit differentiation for fast hyperparameter selection in
    non-smooth convex learning*, 2022.
    """
    check_options(fun, prox, learning_rate, optimizer, tol, gradient_scale, max_steps, args)
    if optimizer is None:
        fista(learning_rate, prox, momentum=momentum, restart=restart)
    elif momentum is not FISTA or restart != "gradient":
        raise ValueError("momentum and restart are fista's, and an optimizer replaces it: leave them out")
    init_params = jax.tree.map(jnp.asarray, init_params)
    check_params(init_params)

    def as_data(init_params: optax.Params) -> Problem:
        objective, result = close(fun, init_params, *args)
        check_result(result, has_aux)
        return Problem(
            init_params=init_params,
            args=args,
            fun=objective,
            prox=prox_as_data(prox, init_params),
            learning_rate=schedule_as_data("learning_rate", learning_rate, init_params),
            momentum=rule_as_data(momentum, init_params),
            tol=tol,
            gradient_scale=gradient_scale,
            max_steps=max_steps,
            # Where NaN counts as an error, it cannot fill the history.
            missing=jnp.inf if jax.config.jax_debug_nans else jnp.nan,  # pyright: ignore
        )

    problem = as_data(init_params)
    if AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types:
        # Inside shard_map each device has a problem of its own where any part of the problem varies.
        results = problem.fun(init_params, *args), proximal_point(problem.prox, init_params, init_params, 1.0)
        rest = problem._replace(init_params=(), args=(), fun=())
        init_params = varying_with(init_params, (results, rest))
        problem = as_data(init_params)
    leaves, structure = jax.tree.flatten(problem)
    options = Options(restart, optimizer, has_aux, int(max_steps) if history else None)
    again = lambda: jax.tree.structure(as_data(init_params))  # noqa: E731
    solution, _ = program(structure, options, again)(leaves)
    return solution
