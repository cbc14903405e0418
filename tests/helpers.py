"""What several test files need: a compiled run, problems with known answers, schedules, trees."""

import re
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax


def exhaustive(*values: Any) -> Any:
    """Values of a parametrised test whose code other values run as well."""
    return pytest.param(*values, marks=pytest.mark.exhaustive)


def eventually(condition: Callable[[], Any], *needed: subprocess.Popen[Any]) -> None:
    """Waits for what another process or thread does; the processes that it needs must live until then."""
    until = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        assert all(process.poll() is None for process in needed), "a process ended before it happened"
        time.sleep(0.02)


def step_function(optimizer: optax.GradientTransformation, loss: Callable, unknown: float = 0.0) -> Callable:
    """(params, state) -> (params, state); the update is also given `value=` and an unknown argument."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(params: Any, state: Any) -> tuple[Any, Any]:
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, value=value, unknown_argument=unknown)
        return optax.apply_updates(params, updates), state

    return step


def train(optimizer: optax.GradientTransformation, params: Any, loss: Callable, steps: int) -> Any:
    """(params, state) after `steps` steps in one compiled scan."""
    step = step_function(optimizer, loss)

    @jax.jit
    def run(params: Any) -> Any:
        carry = params, optimizer.init(params)
        return jax.lax.scan(lambda carry, _: (step(*carry), None), carry, length=steps)[0]

    return run(params)


def trajectory(
    optimizer: optax.GradientTransformation,
    gradient: Callable,
    start: Any,
    steps: int,
    *,
    objective: Callable | None = None,
    learning_rate: float | None = None,
    iterate: bool = True,
) -> tuple[Any, Any]:
    """Parameters, and iterates of `eval_params`, after each step: NumPy arrays from one compiled scan."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        extra = {} if objective is None else {"value": objective(params)}
        updates, state = optimizer.update(gradient(params), state, params, **extra)
        params = optax.apply_updates(params, updates)
        x = nag_optax.eval_params(state, params, learning_rate=learning_rate) if iterate else None
        return (params, state), (params, x)

    @jax.jit
    def run(params: Any) -> Any:
        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[1]

    return jax.tree.map(np.asarray, run(jax.tree.map(jnp.asarray, start)))


# A strongly convex problem that is not quadratic. Sums and products alone, so that NumPy and XLA
# round alike; it takes arrays of either.
_EIGENVALUES = np.geomspace(0.05, 5.0, 8)
_BASIS = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
_HESSIAN = _BASIS @ np.diag(_EIGENVALUES) @ _BASIS.T
START = np.random.default_rng(1).standard_normal(8)


def quartic(p: Any) -> Any:
    return 0.5 * (p @ (_HESSIAN @ p)) + 0.025 * (p**4).sum()


def quartic_gradient(p: Any) -> Any:
    return _HESSIAN @ p + 0.1 * p**3


def sphere(params: Any) -> jax.Array:
    """Σ|p|² over a tree, real or complex."""
    squares = (jnp.sum(jnp.square(jnp.abs(p))).astype(float) for p in jax.tree.leaves(params))
    return sum(squares, start=jnp.zeros([], float))


def float_count(count: jax.typing.ArrayLike) -> jax.Array:
    return jnp.asarray(count).astype(float)


def falling(count: Any) -> Any:
    """A learning rate that changes at every step; for NumPy and, through `float_count`, for JAX."""
    return 0.12 / (1.0 + 0.02 * count)


def rising(count: Any) -> Any:
    """A momentum that changes at every step: FISTA's, simplified."""
    return count / (count + 3.0)


def rule_from(sequence: Callable[[Any], Any]) -> nag_optax.momentum.MomentumRule:
    """A rule, which a restart sends back, with β_t = sequence(t + 1)."""
    return nag_optax.momentum.scheduled(lambda count: sequence(float_count(count)))


def wavering(most: jax.typing.ArrayLike) -> nag_optax.momentum.MomentumRule:
    """A rule of a user's own, which sees the step: less momentum the more often u and w disagree.

    d ← 0.9·d + 0.1·[⟨u, w⟩ < 0],   β = most·(1 − d)
    """

    def product(u: Any, w: jax.Array) -> jax.Array | None:
        if u is None:
            return None
        wide = complex if jnp.iscomplexobj(u) else float
        return jnp.sum(jnp.real(jnp.conj(u.astype(wide)) * w.astype(wide)))

    def coefficients(doubt: jax.Array, step: nag_optax.momentum.Step) -> Any:
        products = jax.tree.map(product, step.update, step.offset, is_leaf=lambda u: u is None)
        disagree = sum(jax.tree.leaves(products), start=jnp.zeros([], float)) < 0
        doubt = 0.9 * doubt + 0.1 * disagree.astype(float)
        return (most * (1 - doubt), 0.0), doubt

    return nag_optax.momentum.MomentumRule(lambda: jnp.zeros([], float), coefficients)


def betas(rule: nag_optax.momentum.MomentumRule, steps: int) -> np.ndarray:
    """β of each step of a rule whose γ is 0, from one compiled scan."""

    def step(state: Any, _: None) -> Any:
        (beta, gamma), state = rule.coefficients(state)
        return state, (jnp.asarray(beta), jnp.asarray(gamma))

    _, (beta, gamma) = jax.lax.scan(step, rule.init(), length=steps)
    np.testing.assert_array_equal(gamma, 0.0)
    return np.asarray(beta)


def arrays_like(tree: Any, params: Any) -> list[jax.Array]:
    """The arrays of a state that are as large as a parameter."""
    shapes = {jnp.shape(p) for p in jax.tree.leaves(params)} - {()}
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.shape(leaf) in shapes]


def dtypes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.dtype, tree)


def assert_trees_equal(actual: Any, expected: Any) -> None:
    """The same structure, dtypes and bits."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert jnp.result_type(a) == jnp.result_type(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def assert_trees_close(actual: Any, expected: Any, rtol: float, atol: float = 0.0) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=atol)


def hlo_computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation of a compiled program; the first of all is "main"."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?(\S+) .*\{$", line):
            lines = found["main" if header[1] else header[2]] = []
        else:
            lines.append(line)
    return found


def conditional_branches(lines: list[str]) -> tuple[str, str]:
    """Where the one conditional of a computation goes: (if false, if true)."""
    (line,) = [line for line in lines if " conditional(" in line]
    numbered = re.findall(r"branch_computations=\{%([\w.-]+), %([\w.-]+)\}", line)
    named = re.findall(r"true_computation=%([\w.-]+), false_computation=%([\w.-]+)", line)
    return numbered[0] if numbered else named[0][::-1]
