"""`eval_params` of any optimizer's state, of a chain's, and of a user's own."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import accelerate, eval_params, nag, scale_by_nesterov
from tests.acceleration.two_steps import EXPECTED, LABELS, MASK, RATE, halved, params_tree, two_updates
from tests.helpers import assert_trees_close, assert_trees_equal

MATRICES = {"body": {"w": True, "b": False}, "head": False}


@pytest.mark.usefixtures("standard_promotion")  # Optax's Adam mixes dtypes
class TestOthers:
    """One training script for every optimizer."""

    @pytest.mark.parametrize(
        "optimizer",
        [
            nag_optax.nadam(RATE),
            nag_optax.nadamw(RATE),
            nag_optax.adan(RATE),
            nag_optax.muon(RATE, matrices=MATRICES),
            optax.adamw(RATE),
            optax.sgd(RATE, 0.9, nesterov=True),
            optax.inject_hyperparams(optax.adamw)(RATE),
            optax.chain(optax.clip(1.0), optax.masked(optax.adam(RATE), MASK), optax.scale(0.5)),
            optax.partition({"first": optax.adam(RATE), "second": optax.set_to_zero()}, LABELS),
        ],
    )
    def test_evaluate_where_they_train(self, optimizer: optax.GradientTransformation):
        params, state = two_updates(optimizer, params_tree())
        x = eval_params(state, params)
        assert all(a is b for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(params), strict=True))

    def test_arguments_the_wrong_way_round(self):
        params = params_tree()
        with pytest.raises(ValueError, match="pass opt_state first, then params"):
            eval_params(params, nag(RATE).init(params))


def rest(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.masked(optimizer, jax.tree.map(lambda flag: not flag, MASK))


def _rank_two(path: Any, leaf: jax.Array) -> bool:
    del path
    return leaf.ndim == 2


# The accelerator is not last, and what follows; or what goes around it.
FOLLOWED = {
    "scale": (optax.chain(accelerate(0.9), optax.scale(-RATE)), "EmptyState"),
    "clip": (optax.chain(nag(RATE), optax.clip(0.01)), "EmptyState"),
    "schedule": (optax.chain(nag(1.0), optax.scale_by_schedule(lambda _: RATE)), "ScaleByScheduleState"),
    "trace": (optax.chain(nag_optax.fista(RATE), optax.trace(0.9)), "TraceState"),
    "prox": (optax.chain(nag(RATE), nag_optax.proximal(nag_optax.prox.l1(1.0), RATE)), "EmptyState"),
    "nonnegative": (optax.chain(nag(RATE), optax.keep_params_nonnegative()), "EmptyState"),
    "frozen": (optax.chain(nag(RATE), optax.masked(optax.set_to_zero(), MASK)), "MaskedState"),
    "masked": (optax.chain(optax.masked(nag(RATE), MASK), optax.scale(0.5)), "EmptyState"),
    "outer": (optax.chain(nag_optax.gpa(optax.sgd(RATE)), optax.clip(0.01)), "EmptyState"),
    "injected": (optax.chain(optax.inject_hyperparams(nag)(RATE), optax.clip(1.0)), "EmptyState"),
    "nested": (optax.chain(optax.chain(nag(RATE)), optax.chain(optax.clip(1.0))), "EmptyState"),
    "gradients": (optax.chain(nag(RATE, accumulate="gradients"), optax.clip(0.01)), "EmptyState"),
    "orthogonal": (
        optax.chain(scale_by_nesterov(), nag_optax.orthogonalize(matrices=_rank_two), optax.scale(-RATE)),
        "OrthogonalizeState",
    ),
    "scaled": (optax.contrib.mechanize(nag(1.0)), "MechanicState"),
    "averaged": (optax.chain(optax.contrib.schedule_free(nag(RATE), RATE)), "ScheduleFreeState"),
}
# It is, or what follows moves x as it moves p.
LAST = {
    "decay": nag(RATE, 0.9, weight_decay=0.0),
    "decay-by-schedule": nag(lambda _: RATE, 0.9, weight_decay=0.0),
    "zero_nans": optax.chain(nag(RATE, 0.9), optax.zero_nans()),
    "gradients": nag(RATE, 0.9, accumulate="gradients"),
    "learning-rate": optax.chain(optax.chain(optax.clip(1e9), scale_by_nesterov(0.9)), optax.scale(-RATE)),
    "injected": optax.chain(
        optax.inject_hyperparams(scale_by_nesterov)(0.9), optax.identity(), optax.scale(-RATE)
    ),
    "rest": optax.chain(optax.masked(nag(RATE, 0.9), MASK), rest(optax.chain(nag(RATE, 0.9)))),
}


class TestChains:
    """What follows an accelerator and changes its step leaves it without an iterate that it knows."""

    @pytest.mark.parametrize("name", FOLLOWED)
    def test_what_follows_is_refused(self, name: str):
        optimizer, culprit = FOLLOWED[name]
        state = optimizer.init(params_tree())
        for evaluate in (eval_params, jax.jit(eval_params)):
            with pytest.raises(ValueError, match=f"has {culprit} after the accelerator.*fista … last"):
                evaluate(state, params_tree(), learning_rate=RATE)

    @pytest.mark.parametrize("name", LAST)
    def test_what_leaves_the_iterate_is_not(self, name: str):
        params, state = two_updates(LAST[name], params_tree())
        assert_trees_close(eval_params(state, params, learning_rate=RATE), EXPECTED, rtol=1e-6)

    def test_without_momentum_there_is_nothing_to_spoil(self):
        params, state = two_updates(optax.chain(nag(RATE, 0.0), optax.clip(0.01)), params_tree())
        assert_trees_equal(eval_params(state, params), params)

    def test_masked_parts_for_the_other_leaves(self):
        """Optax's way to freeze: masked does not touch what it leaves out."""
        optimizer = optax.chain(optax.masked(nag(RATE, 0.9), MASK), rest(optax.set_to_zero()))
        params, state = two_updates(optimizer, params_tree())
        x = eval_params(state, params)
        assert_trees_close(x, {**EXPECTED, "head": params_tree()["head"]}, rtol=1e-6)

    def test_decay_moves_both_alike(self):
        """Against the two sequences with decay: y⁺ = (1 − lr·λ)·y − lr·g + w⁺, x = y − w."""
        params, state = two_updates(nag(RATE, 0.9, weight_decay=0.5), jnp.ones(1))
        w, y = 0.0, 1.0
        for _ in range(2):
            w = 0.9 * (w - RATE * 2 * y)
            y = y - RATE * 2 * y + w - RATE * 0.5 * y
        np.testing.assert_allclose(params, y, rtol=1e-6)
        np.testing.assert_allclose(eval_params(state, params), y - w, rtol=1e-6)


class Halved(NamedTuple):
    """A user's own state: half of the way back to where it began, for the body alone."""

    start: Any

    def eval_params(self, params: Any, *, learning_rate: Any = None) -> Any:
        return {
            name: p if name == "head" else jax.tree.map(self.middle, self.start, p)
            for name, p in params.items()
        }

    @staticmethod
    def middle(start: jax.Array, p: jax.Array) -> jax.Array:
        return (start + p) / 2


# Two steps with a state that is rounded in between, however the two are nested.
WRAPPERS = {
    "own": halved(nag(RATE, 0.9)),
    "own-in-own": halved(halved(nag(RATE, 0.9))),
    "own-in-optax": optax.apply_if_finite(optax.chain(optax.identity(), halved(nag(RATE, 0.9))), 5),
    "optax-in-own": halved(optax.inject_hyperparams(nag)(RATE, 0.9)),
    "low_memory": nag_optax.low_memory(nag(RATE, 0.9), jnp.bfloat16, min_size=1),
    "low_memory-in-own": halved(nag_optax.low_memory(nag(RATE, 0.9))),
    "own-in-low_memory": nag_optax.low_memory(halved(nag(RATE, 0.9))),
    "own-in-partition": optax.partition({"first": halved(nag(RATE, 0.9)), "second": nag(RATE, 0.9)}, LABELS),
}


class TestStatesOfOthers:
    def test_with_the_method_is_asked(self):
        params = params_tree()
        state = (optax.EmptyState(), {"inner": Halved(jax.tree.map(jnp.zeros_like, params["body"]))})
        x = jax.jit(eval_params)(state, params)
        assert_trees_equal(x["body"], jax.tree.map(lambda p: p / 2, params["body"]))
        assert_trees_equal(x["head"], params["head"])
        with pytest.raises(ValueError, match="two accelerators"):
            eval_params((*state, nag(RATE).init(params)), params)
        with pytest.raises(ValueError, match="EmptyState after the accelerator"):
            eval_params(state[::-1], params)

    @pytest.mark.parametrize("name", WRAPPERS)
    def test_that_wraps_a_state_answers_for_it(self, name: str):
        params, state = two_updates(WRAPPERS[name], params_tree())
        # w is at most 0.72, then 1.1: rounded at most to the next bfloat16, 2⁻⁸ and 2⁻⁷ away.
        for evaluate in (eval_params, jax.jit(eval_params)):
            assert_trees_close(evaluate(state, params), EXPECTED, rtol=0, atol=2.0**-7 + 2.0**-8)
        assert not np.allclose(params["body"]["w"], EXPECTED["body"]["w"], atol=0.1)
