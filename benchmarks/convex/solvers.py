"""The contenders: each can trace F over its iterations, and run to a given one."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nag_optax
from benchmarks.convex.problems import Problem

Smooth = Callable[[jax.Array], jax.Array]


class Solver(NamedTuple):
    """A contender.

    Attributes:
        name: in the table.
        solves: whether it takes such a problem.
        trace: (problem, steps) -> F after each step.
        program: (problem, f, steps) -> a function without arguments that goes that far and gives x.
            f is the problem's, or one that counts.
        is_direct: it takes the data, not f.
    """

    name: str
    solves: Callable[[Problem], bool]
    trace: Callable[[Problem, int], np.ndarray]
    program: Callable[[Problem, Smooth, int], Callable[[], Any]]
    is_direct: bool = False


def ours(name: str, backtracking: bool) -> Solver:
    def run(
        problem: Problem, fun: Smooth, steps: int, start: jax.Array, history: bool = False
    ) -> nag_optax.Solution:
        rate = None if backtracking else 1 / problem.smoothness
        return nag_optax.minimize(
            fun,
            start,
            prox=problem.prox,
            learning_rate=rate,
            tol=0.0,
            max_steps=steps,
            history=history,
        )

    def trace(problem: Problem, steps: int) -> np.ndarray:
        history = run(problem, problem.smooth, steps, jnp.zeros(problem.size), history=True).history
        assert history is not None
        return np.asarray(history.value)

    def program(problem: Problem, fun: Smooth, steps: int) -> Callable[[], Any]:
        # Compiled as a whole, as the others are.
        compiled = jax.jit(lambda start: run(problem, fun, steps, start).params)
        return lambda: compiled(jnp.zeros(problem.size))

    return Solver(name, lambda problem: True, trace, program)


def jaxopt_fista(name: str, line_search: bool) -> Solver:
    import jaxopt  # pyright: ignore[reportMissingImports] (extra "bench")

    def solver(problem: Problem, fun: Smooth, steps: int) -> Any:
        return jaxopt.ProximalGradient(
            fun,
            jaxopt_prox(problem),
            stepsize=0.0 if line_search else 1 / problem.smoothness,
            maxiter=steps,
            tol=0.0,
            implicit_diff=False,
        )

    def trace(problem: Problem, steps: int) -> np.ndarray:
        fista = solver(problem, problem.smooth, steps)
        start = jnp.zeros(problem.size)

        def body(carry: Any, _: None) -> Any:
            x, state = fista.update(*carry, hyperparams_prox=None)
            return (x, state), problem.objective(x)

        state = fista.init_state(start, hyperparams_prox=None)
        return np.asarray(jax.jit(lambda: jax.lax.scan(body, (start, state), length=steps)[1])())

    def program(problem: Problem, fun: Smooth, steps: int) -> Callable[[], Any]:
        fista = solver(problem, fun, steps)
        run = jax.jit(lambda start: fista.run(start, hyperparams_prox=None).params)
        return lambda: run(jnp.zeros(problem.size))

    return Solver(name, lambda problem: True, trace, program)


def jaxopt_prox(problem: Problem) -> Callable:
    import jaxopt  # pyright: ignore[reportMissingImports]

    if problem.penalty is None:
        return jaxopt.prox.prox_none
    if problem.penalty == "nonnegative":
        return lambda x, _, scaling=1.0: jnp.maximum(x, 0.0)
    return lambda x, _, scaling=1.0: jaxopt.prox.prox_lasso(x, problem.penalty, scaling)


def optax_lbfgs() -> Solver:
    optimizer = optax.lbfgs()

    def body_of(fun: Smooth) -> Callable:
        value_and_grad = optax.value_and_grad_from_state(fun)

        def body(carry: Any) -> Any:
            x, state = carry
            value, grad = value_and_grad(x, state=state)
            updates, state = optimizer.update(grad, state, x, value=value, grad=grad, value_fn=fun)
            return optax.apply_updates(x, updates), state

        return body

    def trace(problem: Problem, steps: int) -> np.ndarray:
        body, start = body_of(problem.smooth), jnp.zeros(problem.size)

        def step(carry: Any, _: None) -> Any:
            carry = body(carry)
            return carry, problem.objective(carry[0])

        run = jax.jit(lambda: jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1])
        return np.asarray(run())

    def program(problem: Problem, fun: Smooth, steps: int) -> Callable[[], Any]:
        body = body_of(fun)
        run = jax.jit(
            lambda x: jax.lax.fori_loop(0, steps, lambda _, carry: body(carry), (x, optimizer.init(x)))[0]
        )
        return lambda: run(jnp.zeros(problem.size))

    return Solver("optax.lbfgs", lambda problem: problem.penalty is None, trace, program)


def sklearn_lasso() -> Solver:
    """Coordinate descent; a step is a pass over the coordinates."""
    from sklearn.linear_model import Lasso

    def program(problem: Problem, fun: Any, steps: int) -> Callable[[], Any]:
        matrix, target, _ = problem.data
        matrix = np.asfortranarray(matrix)
        assert problem.is_lasso
        alpha = problem.penalty / len(target)  # pyright: ignore[reportOperatorIssue]
        model = Lasso(alpha, fit_intercept=False, tol=0.0, max_iter=steps)
        return lambda: _quietly(model.fit, matrix, target).coef_

    return Solver(
        "sklearn Lasso", lambda problem: problem.is_lasso, _trace_of(program), program, is_direct=True
    )


def sklearn_logistic() -> Solver:
    """SciPy's L-BFGS."""
    from sklearn.linear_model import LogisticRegression

    def program(problem: Problem, fun: Any, steps: int) -> Callable[[], Any]:
        matrix, target, strength = problem.data
        model = LogisticRegression(C=1 / strength, fit_intercept=False, tol=1e-14, max_iter=steps)
        return lambda: _quietly(model.fit, matrix, target).coef_[0]

    name = "sklearn LogisticRegression"
    return Solver(
        name, lambda problem: problem.name.startswith("logistic"), _trace_of(program), program, is_direct=True
    )


def scipy_nnls() -> Solver:
    """The active-set method of Lawson and Hanson: exact after one call."""
    from scipy.optimize import nnls

    def program(problem: Problem, fun: Any, steps: int) -> Callable[[], Any]:
        matrix, target, _ = problem.data
        return lambda: nnls(matrix, target)[0]

    return Solver(
        "scipy nnls",
        lambda problem: problem.penalty == "nonnegative",
        _trace_of(program, longest=1),
        program,
        is_direct=True,
    )


def solvers() -> list[Solver]:
    return [
        jaxopt_fista("JAXopt FISTA, 1/L", line_search=False),
        jaxopt_fista("JAXopt FISTA, line search", line_search=True),
        ours("nag_optax, 1/L", backtracking=False),
        ours("nag_optax, backtracking", backtracking=True),
        optax_lbfgs(),
        sklearn_lasso(),
        sklearn_logistic(),
        scipy_nnls(),
    ]


def _trace_of(program: Callable, longest: int = 512) -> Callable[[Problem, int], np.ndarray]:
    """F after each step of a solver that shows its last iterate alone: it runs anew for each."""

    def trace(problem: Problem, steps: int) -> np.ndarray:
        objective = jax.jit(problem.objective)
        points = (program(problem, None, n + 1)() for n in range(min(steps, longest)))
        return np.array([float(objective(jnp.asarray(x))) for x in points])

    return trace


def _quietly(fit: Callable, *data: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge: it was told to stop
        return fit(*data)
