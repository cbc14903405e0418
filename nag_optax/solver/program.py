"""The compiled program of a problem, and the one of its derivative."""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax.acceleration.momentum.restarting import Restart
from nag_optax.optimizers.backtracking import gradient_of
from nag_optax.optimizers.fista import fista
from nag_optax.prox.apply import forward_backward, penalty
from nag_optax.solver import loop
from nag_optax.solver.checks import check_operator
from nag_optax.solver.implicit import fixed_point_tangent, with_derivative
from nag_optax.solver.problem import FISTA, Problem
from nag_optax.solver.solution import History, Solution

Result = tuple[Solution, jax.Array]


class Options(NamedTuple):
    """The part of a problem that is program, not data. Optimizers are compared by identity."""

    restart: Restart | None
    optimizer: Any
    has_aux: bool
    history_length: int | None


# The latest come last. A program takes a megabyte or so.
_programs: collections.OrderedDict[tuple[Any, Options], Callable[[list[Any]], Result]] = (
    collections.OrderedDict()
)
_CAPACITY = 128


def program(structure: Any, options: Options, again: Callable[[], Any]) -> Callable[[list[Any]], Result]:
    """Leaves of a `Problem` of this structure ↦ its solution, and the step size of the latest step.

    A program is kept unless another trace, `again`, has another structure, so that it would not be found.
    That is so where a derivative rule of the user's is traced, because only its use tells what it does.
    """
    key = structure, options
    if (known := _programs.get(key)) is not None:
        _programs.move_to_end(key)
        return known
    made = _program(structure, options)
    if again() == structure:
        _programs[key] = made
        if len(_programs) > _CAPACITY:
            _programs.popitem(last=False)
    return made


def _program(structure: Any, options: Options) -> Callable[[list[Any]], Result]:
    def unpacked(leaves: list[Any]) -> Problem:
        problem = structure.unflatten(leaves)
        # XLA copies a constant into every loop and branch that reads it. Data that would fit the cache once
        # then do not: a step of nonnegative least squares on 600×200 took twice as long. Each array has
        # its own barrier, because one around all would make them all vary inside shard_map.
        return problem._replace(fun=jax.tree.map(jax.lax.optimization_barrier, problem.fun))

    @jax.jit
    def solve(leaves: list[Any]) -> Result:
        return _solve(unpacked(leaves), options)

    @jax.jit
    def tangent(leaves: list[Any], result: Result, moving: dict[int, Any]) -> Result:
        def problem_of(values: dict[int, Any]) -> Problem:
            return unpacked([values.get(i, leaf) for i, leaf in enumerate(leaves)])

        return _tangent(problem_of, {i: leaves[i] for i in moving}, moving, result, options)

    return with_derivative(solve, tangent)


def _solve(problem: Problem, options: Options) -> Result:
    check_operator(problem.prox, problem.init_params)
    optimizer = options.optimizer
    if optimizer is None:
        momentum = FISTA if problem.momentum is None else problem.momentum
        optimizer = fista(problem.learning_rate, problem.prox, momentum=momentum, restart=options.restart)
    params, step_size, report = loop.run(
        loop.Problem(
            lambda params: _value_and_aux(problem, options, params)[0],
            problem.prox,
            optax.with_extra_args_support(optimizer),
            problem.learning_rate,
        ),
        problem.init_params,
        loop.Limits(
            jnp.asarray(problem.tol, float), jnp.asarray(problem.gradient_scale, float), problem.max_steps
        ),
        options.history_length,
    )
    value, aux = _value_and_aux(problem, options, params)
    history = None
    if report.history is not None:
        taken = jnp.arange(options.history_length, dtype=report.steps.dtype) < report.steps
        history = History(*(jnp.where(taken, record, problem.missing) for record in report.history))
    solution = Solution(
        params=params,
        value=_with_penalty(value, problem, params),
        gradient_mapping_norm=report.gradient_mapping_norm,
        gradient_scale=report.gradient_scale,
        steps=report.steps,
        value_evaluations=report.value_evaluations + 1,
        gradient_evaluations=report.gradient_evaluations,
        converged=report.reason == loop.CONVERGED,
        reason=report.reason,
        aux=aux,
        history=history,
    )
    return solution, step_size


def _tangent(
    problem_of: Callable[[Any], Problem], at: Any, along: Any, result: Result, options: Options
) -> Result:
    """The derivatives of x = prox(x − s·∇f(x), s), of F(x) and of aux; None for the rest."""
    step_size, x = result[1], result[0].params

    def image(x: Any, at: Any) -> Any:
        problem = problem_of(at)
        grads = gradient_of(lambda x: _value_and_aux(problem, options, x)[0], x)
        return forward_backward(problem.prox, x, grads, step_size)

    def outcome(x: Any, at: Any) -> tuple[jax.Array, Any]:
        problem = problem_of(at)
        value, aux = _value_and_aux(problem, options, x)
        return _with_penalty(value, problem, x), aux

    _, shift = jax.jvp(lambda at: image(x, at), (at,), (along,))
    dx = fixed_point_tangent(lambda x: image(x, at), x, shift)
    _, (value, aux) = jax.jvp(outcome, (x, at), (dx, along))
    aux = jax.tree.map(lambda a: None if a.dtype == jax.dtypes.float0 else a, aux)
    still: Any = jax.tree.map(lambda _: None, result)
    return still[0]._replace(params=dx, value=value, aux=aux), still[1]


def _with_penalty(value: jax.Array, problem: Problem, params: Any) -> jax.Array:
    return value + penalty(problem.prox, params).astype(value.dtype)


def _value_and_aux(problem: Problem, options: Options, params: Any) -> tuple[jax.Array, Any]:
    result = problem.fun(params, *problem.args)
    return result if options.has_aux else (result, None)
