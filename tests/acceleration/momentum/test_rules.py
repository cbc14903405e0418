"""What every rule promises: its state, its numbers after many steps, traced arguments, restarts, errors."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import accelerate, eval_params, momentum, nag
from tests.helpers import START, assert_trees_close, assert_trees_equal, quartic_gradient, trajectory

# A name, the factory, its arguments.
RULES: dict[str, tuple[Callable[..., momentum.MomentumRule], dict[str, Any]]] = {
    "sutskever": (momentum.sutskever, {"max_momentum": 0.9}),
    "fista": (momentum.fista, {}),
    "chambolle_dossal": (momentum.chambolle_dossal, {"a": 3.5}),
    "strongly_convex": (momentum.strongly_convex, {"condition_number": 50.0}),
    "gfista": (
        momentum.gfista,
        {"step_size": 0.12, "strong_convexity": 0.05, "prox_strong_convexity": 0.1},
    ),
    "ogm": (momentum.ogm, {}),
    "ogm-steps": (momentum.ogm, {"num_steps": 6}),
    "triple_momentum": (momentum.triple_momentum, {"condition_number": 50.0}),
    "item": (momentum.item, {"condition_number": 50.0}),
    "scheduled_restart": (momentum.scheduled_restart, {"period": 4}),
}
over_rules = pytest.mark.parametrize("name", RULES)
over_rules_with_arguments = pytest.mark.parametrize("name", [n for n, (_, kwargs) in RULES.items() if kwargs])

# Arguments at the ends of their ranges, for which float32 has little room.
EXTREMES = {
    "chambolle_dossal": [{"a": 2}, {"a": 1e6}],
    "strongly_convex": [{"condition_number": k} for k in (1, 1 + 1e-6, 1e12)],
    "gfista": [
        {"step_size": 1.0, "strong_convexity": mu_f, "prox_strong_convexity": mu_g}
        for mu_f in (0.0, 1e-12, 1.0)
        for mu_g in (0.0, 1e-12, 1e6)
    ],
    "ogm-steps": [{"num_steps": n} for n in (1, 2, 9_999, 10_000, 2**31 - 1)],
    "triple_momentum": [{"condition_number": k} for k in (1, 1 + 1e-6, 1e12)],
    "item": [{"condition_number": k} for k in (1, 1 + 1e-6, 2, 1e6, 1e12, 1e30)],
    "scheduled_restart": [{"period": n} for n in (1, 2**31 - 1)],
}


def _as_is(value: Any) -> Any:
    return value


@contextlib.contextmanager
def enabled_x64(enabled: bool) -> Iterator[None]:
    jax.config.update("jax_enable_x64", enabled)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def make(name: str, **changed: Any) -> momentum.MomentumRule:
    factory, kwargs = RULES[name]
    return factory(**{**kwargs, **changed})


def evaluation(rule: momentum.MomentumRule, state: Any) -> jax.Array:
    factor: Any = rule.evaluation
    return jnp.asarray(factor(state) if callable(factor) else factor)


def run(rule: momentum.MomentumRule, steps: int) -> tuple[Any, Any]:
    """The last state, and (β, γ, e) of each step."""

    def step(state: Any, _: None) -> Any:
        (beta, gamma), state = rule.coefficients(state)
        return state, (jnp.asarray(beta), jnp.asarray(gamma), evaluation(rule, state))

    return jax.jit(lambda: jax.lax.scan(step, rule.init(), length=steps))()


def kinds(tree: Any) -> list[Any]:
    return [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)]


@over_rules
def test_finite_in_float32_after_ten_thousand_steps(name: str):
    for kwargs in [{}, *EXTREMES.get(name, [])]:
        rule = make(name, **kwargs)
        state, (beta, gamma, factor) = run(rule, 10_000)
        for values in (*jax.tree.leaves(state), beta, gamma, factor):
            assert values.dtype in (np.float32, np.int32)
            assert np.all(np.isfinite(values)), kwargs
        assert np.all((beta >= 0) & (beta <= 1)), kwargs
        assert np.all((gamma >= 0) & (gamma <= 1)), kwargs


@over_rules
def test_float32_agrees_with_float64(name: str):
    single = run(make(name), 3_000)[1]
    with enabled_x64(True):
        double = run(make(name), 3_000)[1]
    for narrow, wide in zip(single, double, strict=True):
        np.testing.assert_allclose(narrow, np.asarray(wide, np.float32), rtol=1e-5, atol=1e-6)


@over_rules
@pytest.mark.parametrize("convert", [_as_is, jnp.asarray, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("double", [False, True], ids=["x32", "x64"])
def test_state_never_changes_its_kind(name: str, convert: Callable, double: bool):
    """Else it could not be the carry of a scan. The dtype of an argument has no part in it."""
    with enabled_x64(double):
        rule = make(name, **{k: convert(v) for k, v in RULES[name][1].items()})
        state = rule.init()
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(state)}
        assert dtypes <= {jnp.dtype(jnp.float64 if double else jnp.float32), jnp.dtype(jnp.int32)}
        for _ in range(3):
            assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
            (beta, gamma), following = rule.coefficients(state)
            assert jnp.shape(beta) == jnp.shape(gamma) == ()
            assert kinds(following) == kinds(state)
            state = following


@over_rules_with_arguments
def test_a_narrow_argument_does_not_narrow_the_coefficients(name: str):
    """As `inject_hyperparams` makes them for bfloat16 parameters."""
    narrow = {k: jnp.bfloat16(v) for k, v in RULES[name][1].items()}
    as_numbers = {k: type(v)(narrow[k]) for k, v in RULES[name][1].items()}
    for a, b in zip(run(make(name, **narrow), 8)[1], run(make(name, **as_numbers), 8)[1], strict=True):
        np.testing.assert_allclose(np.float64(a), b, rtol=1e-6, atol=1e-7)


@over_rules_with_arguments
def test_traced_arguments(name: str):
    """Under jit and vmap, one compilation for all of their values."""
    kwargs = RULES[name][1]
    (_, first), *_ = items = list(kwargs.items())

    @jax.jit
    @jax.vmap
    def coefficients(arguments: dict[str, jax.Array]) -> Any:
        return run(make(name, **arguments), 12)[1]

    factors = np.array([1, 2, 1]) if isinstance(first, int) else np.array([1.0, 0.9, 0.8])
    lanes = coefficients({k: jnp.asarray(v * factors) for k, v in items})
    for lane, factor in enumerate(factors):
        alone = run(make(name, **{k: v * factor.item() for k, v in items}), 12)[1]
        for a, b in zip(lanes, alone, strict=True):
            np.testing.assert_allclose(np.broadcast_to(a, (3, 12))[lane], b, rtol=2e-5, atol=1e-6)


@over_rules_with_arguments
def test_injected_arguments(name: str, x64: None):
    """The iterate of `eval_params` follows an injected value too."""
    factory, kwargs = RULES[name]

    @functools.wraps(factory)  # For its signature, which names the injected arguments.
    def optimizer(*args: Any, **kwargs: Any) -> optax.GradientTransformation:
        return nag(0.12, factory(*args, **kwargs))

    injected = optax.inject_hyperparams(optimizer)(**kwargs)
    expected = trajectory(nag(0.12, factory(**kwargs)), quartic_gradient, START, 12)
    actual = trajectory(injected, quartic_gradient, START, 12)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["triple_momentum", "item"])
def test_iterate_follows_an_injected_value_that_changes(name: str):
    factory, _ = RULES[name]
    optimizer = optax.inject_hyperparams(lambda kappa: nag(0.1, factory(kappa)))(kappa=4.0)
    params = jnp.ones(2)
    state = optimizer.init(params)
    state.hyperparams["kappa"] = jnp.asarray(100.0)
    _, state = optimizer.update(params, state, params)
    inner: Any = state.inner_state
    (accelerated,) = [s for s in inner if isinstance(s, nag_optax.AccelerateState)]
    rule = factory(100.0)
    # ITEM's state began with the first value; what it forms from now on is of the second.
    _, following = rule.coefficients(factory(4.0).init())
    np.testing.assert_allclose(accelerated.evaluation, evaluation(rule, following), rtol=1e-6)


@over_rules
def test_the_three_ways_to_use_it_agree(name: str, x64: None):
    rule = make(name)
    ps, xs = trajectory(optax.chain(optax.sgd(0.12), accelerate(rule)), quartic_gradient, START, 20)
    ready = trajectory(nag(0.12, rule), quartic_gradient, START, 20)
    assert_trees_equal(ready, (ps, xs))
    gradients = nag(0.12, rule, accumulate="gradients")
    others = trajectory(gradients, quartic_gradient, START, 20, learning_rate=0.12)
    assert_trees_close(others, (ps, xs), rtol=0, atol=1e-13)


@over_rules
def test_eval_params_is_the_rule_s_iterate(name: str, x64: None):
    rule = make(name)
    optimizer = accelerate(rule)
    params = jnp.asarray(START)
    state: Any = optimizer.init(params)
    rule_state = rule.init()
    assert_trees_equal(eval_params(state, params), params)
    for _ in range(6):
        updates, state = optimizer.update(-0.12 * quartic_gradient(params), state, params)
        params = jnp.add(params, updates)
        _, rule_state = rule.coefficients(rule_state)
        expected = params + evaluation(rule, rule_state) * state.offset
        np.testing.assert_allclose(eval_params(state, params), expected, rtol=0, atol=1e-15)


@over_rules
def test_a_restart_begins_the_rule_again(name: str, x64: None):
    """What follows the restart is a run of its own from there."""
    rule = make(name)
    optimizer = accelerate(rule, restart="value")
    params = jnp.asarray(START)
    state: Any = optimizer.init(params)
    for value in (3.0, 2.0, 1.0, 9.0):
        updates, state = optimizer.update(-0.12 * quartic_gradient(params), state, params, value=value)
        params = jnp.add(params, updates)
    assert_trees_equal(state.rule_state.rule_state, rule.init())
    np.testing.assert_array_equal(state.offset, 0.0)
    assert_trees_equal(eval_params(state, params), params)

    fresh = optimizer.init(params)
    for _ in range(3):
        gradient = quartic_gradient(params)
        updates, state = optimizer.update(-0.12 * gradient, state, params, value=0.0)
        expected, fresh = optimizer.update(-0.12 * gradient, fresh, params, value=0.0)
        assert_trees_equal(updates, expected)
        params = jnp.add(params, updates)


NUMBER = "must be a number in"


@pytest.mark.parametrize(
    ("make_rule", "error", "message"),
    [
        (lambda: momentum.chambolle_dossal(1.9), ValueError, rf"a {NUMBER} \[2, inf\); got 1.9"),
        (lambda: momentum.chambolle_dossal("3"), TypeError, rf"a {NUMBER} .*got '3' of type str"),
        (lambda: momentum.gfista(0.0, 0.1), ValueError, rf"step_size {NUMBER} \(0, inf\); got 0.0"),
        (lambda: momentum.gfista(-1, 0.1), ValueError, rf"step_size {NUMBER} .*got -1"),
        (lambda: momentum.gfista(None, 0.1), TypeError, rf"step_size {NUMBER} .*NoneType"),
        (lambda: momentum.gfista(0.1, -0.1), ValueError, rf"strong_convexity {NUMBER} \[0, inf\); got -0.1"),
        (lambda: momentum.gfista(0.1, 0.1, -2), ValueError, rf"prox_strong_convexity {NUMBER} .*got -2"),
        (lambda: momentum.ogm(0), ValueError, r"num_steps must be an integer in \[1, 2147483648\); got 0"),
        (lambda: momentum.ogm(4.0), TypeError, "num_steps must be an integer .*got 4.0 of type float"),
        (lambda: momentum.ogm(True), TypeError, "num_steps must be an integer .*got True of type bool"),
        (lambda: momentum.ogm(2**31), ValueError, "num_steps must be an integer .*got 2147483648"),
        (lambda: momentum.scheduled_restart(0), ValueError, r"period must be an integer in \[1, .*got 0"),
        (lambda: momentum.scheduled_restart(2.5), TypeError, "period must be an integer .*got 2.5"),
        (
            lambda: momentum.scheduled_restart(jnp.ones(2)),
            ValueError,
            r"period .*got an array of shape \(2,\)",
        ),
        *[
            (lambda value=value, rule=rule: rule(value), error, rf"condition_number {NUMBER} \[1, inf\).*got")
            for rule in (momentum.strongly_convex, momentum.triple_momentum, momentum.item)
            for value, error in [
                (0.5, ValueError),
                (0, ValueError),
                (float("nan"), ValueError),
                (float("inf"), ValueError),
                ("9", TypeError),
                (np.ones(2), ValueError),
            ]
        ],
    ],
)
def test_bad_arguments(make_rule: Callable, error: type[Exception], message: str):
    with pytest.raises(error, match=f"^{message}"):
        make_rule()
