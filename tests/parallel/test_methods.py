"""DANA-Zero and Delayed Nesterov against their papers, and the methods that they contain."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax import nag
from nag_optax.parallel import DelayedState, Method, dana_zero, delayed_nesterov
from tests import reference
from tests.helpers import (
    START,
    assert_trees_equal,
    falling,
    float_count,
    quartic_gradient,
    rising,
    rule_from,
    trajectory,
)

EXACT = 1e-12  # float64 rounding over the steps of a contraction, with a margin


def compiled(method: Method) -> Method:
    return Method(*map(jax.jit, method))


def with_workers(method: Method, params: Any, count: int) -> Any:
    state = method.init(params)
    for _ in range(count):
        state, _ = method.join(state)
    return state


EVENTS = [
    ("join", 0),
    ("join", 1),
    ("push", 0),
    ("push", 0),
    ("push", 1),
    ("join", 2),
    ("push", 2),
    ("push", 1),
]
EVENTS += (
    [("push", i) for i in (0, 1, 2, 2, 0, 1) * 5] + [("leave", 1)] + [("push", i) for i in (0, 2, 0) * 5]
)
EVENTS += [("join", 3), ("push", 3), ("leave", 0), ("leave", 2), ("leave", 3)]


def served(method: Method, events: list[tuple[str, int]]) -> Any:
    """The state, and (θ, what would be sent) after each event."""
    method = compiled(method)
    state, workers, sent, seen = method.init(jnp.asarray(START)), {}, {}, []
    for what, i in events:
        if what == "join":
            state, workers[i] = method.join(state)
        elif what == "leave":
            state = method.leave(state, workers.pop(i))
        else:
            state, workers[i] = method.receive(state, workers[i], jnp.asarray(quartic_gradient(sent[i])))
        sent[i] = np.asarray(method.send(state))
        seen.append((np.asarray(state.params), sent[i]))
    return state, *map(np.stack, zip(*seen, strict=True))


def test_dana_against_the_paper_while_workers_join_and_leave(x64):
    state, theta, sent = served(dana_zero(0.02, 0.8), EVENTS)
    thetas, points = reference.dana_zero(quartic_gradient, START, 0.02, 0.8, EVENTS)
    np.testing.assert_allclose(theta, thetas, rtol=0, atol=EXACT)
    np.testing.assert_allclose(sent, points, rtol=0, atol=EXACT)
    # All momentum went with its worker: what is left is the rounding of the sum.
    assert np.abs(state.velocity).max() < EXACT < np.abs(sent - theta).max()


@pytest.mark.parametrize("scheduled", [False, True])
def test_dana_of_one_worker_is_nag(scheduled: bool, x64):
    rate = (lambda count: falling(float_count(count))) if scheduled else 0.1
    momentum = (lambda count: rising(float_count(count))) if scheduled else 0.9
    events = [("join", 0)] + [("push", 0)] * 40
    _, theta, sent = served(dana_zero(rate, momentum), events)
    ys, xs = trajectory(nag(rate, momentum), quartic_gradient, START, 40)
    np.testing.assert_allclose(theta[1:], xs, rtol=0, atol=EXACT)
    np.testing.assert_allclose(sent[1:], ys, rtol=0, atol=EXACT)


@pytest.mark.parametrize(("workers", "spread"), [(1, 0.0), (4, 0.0), (4, 0.2)])
def test_delayed_against_the_paper(workers: int, spread: float, x64):
    arrivals = np.random.default_rng(2).standard_normal((3 * workers + 1, START.size))
    method = compiled(delayed_nesterov(0.3, 0.9, spread=spread))
    state, seen = with_workers(method, jnp.asarray(START), workers), []
    for update in arrivals:
        state, _ = method.receive(state, (), jnp.asarray(update))
        seen.append(np.asarray(state.params))
    expected = reference.delayed_nesterov(arrivals, START, 0.3, 0.9, workers, spread)
    np.testing.assert_allclose(np.stack(seen), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("wait", [False, True])
def test_a_round_of_equal_arrivals_is_one_nesterov_step(wait: bool, x64):
    """Under schedules, which count rounds: N arrivals are one step of `nag` in its form of gradients."""
    rate = lambda count: falling(float_count(count))  # noqa: E731
    momentum = rule_from(rising)
    method = compiled(delayed_nesterov(rate, momentum, wait=wait))
    state, seen = with_workers(method, jnp.asarray(START), 3), []
    for _ in range(20):
        gradient = jnp.asarray(quartic_gradient(np.asarray(method.send(state))))
        for _ in range(3):
            assert not wait or np.array_equal(method.send(state), seen[-1] if seen else START)
            state, _ = method.receive(state, (), gradient)
        seen.append(np.asarray(method.send(state)))
    ps, _ = trajectory(
        nag(rate, momentum, accumulate="gradients"), quartic_gradient, START, 20, iterate=False
    )
    np.testing.assert_allclose(np.stack(seen), ps, rtol=0, atol=EXACT)


def test_a_round_ends_when_the_worker_that_it_waits_for_leaves(x64):
    """With the mean of what arrived: as if there had been two workers from the start."""
    method = delayed_nesterov(0.5, 0.9, wait=True)

    def after(workers: int, leaves: int) -> DelayedState:
        state = with_workers(method, jnp.asarray(START), workers)
        for g in (1.0, 3.0):
            state, _ = method.receive(state, (), jnp.full(START.shape, g))
        for _ in range(leaves):
            state = method.leave(state, ())
        return state

    left, two = after(3, 1), after(2, 0)
    assert int(left.rounds) == int(two.rounds) == 1
    assert_trees_equal(left, two)
    assert int(after(3, 0).rounds) == 0


@pytest.mark.parametrize("method", [dana_zero(0.1), delayed_nesterov(), delayed_nesterov(momentum=0.0)])
def test_a_state_keeps_its_types_and_owns_its_arrays(method: Method):
    """bfloat16, a scalar and a part without gradient; without another type after a step."""
    params = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.zeros(()), "c": None}
    state, worker = method.join(method.init(params))
    after = method.receive(state, worker, {"a": jnp.ones((2, 3), jnp.bfloat16), "b": None, "c": None})
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, (state, worker))
    np.testing.assert_array_equal(after[0].params["b"], params["b"])
    assert float(after[0].params["a"][0, 0]) < 1
    for leaf in jax.tree.leaves(jax.jit(lambda tree: tree, donate_argnums=0)(state)):
        assert not leaf.is_deleted()
    assert not params["a"].is_deleted()


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: dana_zero(-1.0), ValueError, "learning_rate"),
        (lambda: dana_zero(0.1, 1.0), ValueError, "momentum"),
        (lambda: delayed_nesterov("fast"), TypeError, "learning_rate"),  # pyright: ignore[reportArgumentType]
        (lambda: delayed_nesterov(spread=-0.1), ValueError, "spread"),
        (lambda: _received(dana_zero(0.1), jnp.ones(3)), ValueError, "shape"),
        (lambda: _received(delayed_nesterov(), {"a": jnp.ones(2)}), ValueError, "tree"),
    ],
)
def test_a_mistake_is_named(make, error, named):
    with pytest.raises(error, match=named):
        make()


def _received(method: Method, update: Any) -> None:
    state, worker = method.join(method.init(jnp.ones(2)))
    method.receive(state, worker, update)
