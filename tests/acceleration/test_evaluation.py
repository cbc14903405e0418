"""`eval_params` finds x = p + e·w through every wrapper, and refuses where there is no one answer."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import nag_optax
from nag_optax import accelerate, eval_params, nag, scale_by_nesterov
from tests import reference
from tests.acceleration.two_steps import (
    EXPECTED,
    LABELS,
    MASK,
    RATE,
    halved,
    params_tree,
    primary_iterate,
    two_updates,
)
from tests.helpers import (
    START,
    assert_trees_close,
    assert_trees_equal,
    falling,
    float_count,
    quartic_gradient,
    rising,
    trajectory,
)

WRAPPED = {
    "nag": nag(RATE, 0.9),
    "accelerate": optax.chain(optax.sgd(RATE), accelerate(0.9)),
    "chain-in-chain": optax.chain(optax.chain(optax.identity(), optax.chain(nag(RATE, 0.9)))),
    "named-chain": optax.named_chain(("clip", optax.clip(1e9)), ("nag", nag(RATE, 0.9))),
    "inject_hyperparams": optax.inject_hyperparams(nag)(RATE, 0.9),
    "flatten": optax.flatten(nag(RATE, 0.9)),
    "flatten-fista": optax.flatten(nag_optax.fista(RATE, lambda p, step_size: p, momentum=0.9, restart=None)),
    "apply_if_finite": optax.apply_if_finite(nag(RATE, 0.9), 5),
    "partition": optax.partition({"first": nag(RATE, 0.9), "second": nag(RATE, 0.9)}, LABELS),
    "partition-of-two-kinds": optax.partition(
        {"first": nag(RATE, 0.9), "second": optax.chain(optax.sgd(RATE), accelerate(0.9))}, LABELS
    ),
    "masked-halves": optax.chain(
        optax.masked(nag(RATE, 0.9), MASK),
        optax.masked(nag(RATE, 0.9), jax.tree.map(lambda flag: not flag, MASK)),
    ),
    "clipped": optax.chain(optax.clip_by_global_norm(1e9), nag(RATE, 0.9)),
    "stack": optax.apply_if_finite(
        optax.inject_hyperparams(lambda rate: optax.chain(nag(rate, 0.9)))(rate=RATE), 5
    ),
}


class TestWrappers:
    @pytest.mark.parametrize("name", WRAPPED)
    @pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
    def test_finds_the_iterate(self, name: str, jitted: bool):
        params, state = two_updates(WRAPPED[name], params_tree())
        evaluate = jax.jit(eval_params) if jitted else eval_params
        x = evaluate(state, params)
        assert_trees_close(x, EXPECTED, rtol=1e-6)
        assert not np.allclose(x["head"], params["head"], rtol=1e-2)

    @pytest.mark.parametrize("every", [1, 2])
    def test_multi_steps(self, every: int, standard_promotion: None):
        optimizer = optax.MultiSteps(nag(RATE, 0.9), every)
        params = params_tree()
        state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        for _ in range(2 * every):
            updates, state = update(jax.tree.map(lambda p: 2 * p, params), state, params)
            params = optax.apply_updates(params, updates)
        assert_trees_close(eval_params(state, params), EXPECTED, rtol=1e-6)

    def test_masked_leaves_are_returned_as_they_are(self):
        params, state = two_updates(optax.masked(nag(RATE, 0.9), MASK), params_tree())
        x = eval_params(state, params)
        assert_trees_equal(x["head"], params["head"])
        assert_trees_close(x["body"], EXPECTED["body"], rtol=1e-6)

    def test_partition_with_another_optimizer(self, standard_promotion: None):
        parts = {"first": nag(RATE, 0.9), "second": optax.adam(RATE)}
        params, state = two_updates(optax.partition(parts, LABELS), params_tree())
        x = eval_params(state, params)
        assert_trees_close(x["body"]["w"], EXPECTED["body"]["w"], rtol=1e-6)
        assert_trees_equal(x["head"], params["head"])

    def test_multi_transform_of_three(self):
        parts = {name: nag(RATE, momentum) for name, momentum in (("a", 0.9), ("b", 0.5), ("c", 0.0))}
        labels = {"body": {"w": "a", "b": "b"}, "head": "c"}
        params, state = two_updates(optax.partition(parts, labels), params_tree())
        x = eval_params(state, params)
        assert_trees_close(x["body"]["w"], EXPECTED["body"]["w"], rtol=1e-6)
        first = 0.5 * 0.8
        second = (first + 0.5 * (first - 0.5)) * 0.8
        np.testing.assert_allclose(x["body"]["b"], second, rtol=1e-6)
        assert_trees_equal(x["head"], params["head"])

    def test_lookahead(self, standard_promotion: None):
        optimizer = optax.lookahead(nag(RATE, 0.9), sync_period=5, slow_step_size=0.5)
        params = optax.LookaheadParams.init_synced(params_tree())
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(jax.tree.map(lambda p: 2 * p, params.fast), state, params)
            params = optax.apply_updates(params, updates)
        assert_trees_close(eval_params(state, params.fast), EXPECTED, rtol=1e-6)

    def test_vmapped_state(self):
        """One factor for each lane, and parameters of every rank."""
        params = jax.tree.map(lambda p: jnp.stack([p, 2 * p, 3 * p]), params_tree())
        lanes, state = jax.vmap(lambda p: two_updates(nag(RATE, 0.9), p))(params)
        for x in (eval_params(state, lanes), jax.vmap(eval_params)(state, lanes)):
            assert_trees_close(x, jax.tree.map(primary_iterate, params), rtol=1e-6)
        assert jax.tree.leaves(state[1].evaluation)[0].shape == (3,)

    def test_inside_a_scan(self):
        xs = trajectory(nag(RATE, 0.9), lambda p: 2 * p, params_tree()["head"], 2)[1]
        np.testing.assert_allclose(xs[-1], EXPECTED["head"], rtol=1e-6)

    def test_schedules_in_double_precision(self, x64: None):
        optimizer = optax.apply_if_finite(
            nag(lambda count: falling(float_count(count)), lambda count: rising(float_count(count))), 5
        )
        _, xs = trajectory(optimizer, quartic_gradient, START, 100)
        _, expected = reference.nesterov(quartic_gradient, START, falling, rising, 100)
        np.testing.assert_allclose(xs, expected, rtol=0, atol=1e-12)

    def test_restart_makes_both_iterates_one(self):
        optimizer = accelerate(0.9, restart="value")
        params = jnp.ones(2)
        state = optimizer.init(params)
        for value in (1.0, 2.0):
            _, state = optimizer.update(params, state, params, value=jnp.array(value))
        assert_trees_equal(eval_params(state, params), params)


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.inner = nnx.Linear(3, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 1, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm(self.inner(x))
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.usefixtures("standard_promotion")  # nnx broadcasts a bias over the batch
class TestNnx:
    """`nnx.Optimizer.opt_state` and `nnx.state(model, nnx.Param)`, as they are."""

    @staticmethod
    def trained(
        optimizer: optax.GradientTransformation,
    ) -> tuple[Model, nnx.Optimizer, Any, Any]:
        model = Model(nnx.Rngs(0))
        wrapper = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
        batch = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
        plain = nnx.state(model, nnx.Param)
        state = optimizer.init(plain)
        for _ in range(3):
            grads = nnx.grad(lambda model: jnp.mean(jnp.square(model(batch))))(model)
            updates, state = optimizer.update(grads, state, plain)
            plain = optax.apply_updates(plain, updates)
            wrapper.update(model, grads)
        return model, wrapper, plain, state

    @pytest.mark.parametrize("name", ["nag", "apply_if_finite", "own"])
    def test_optimizer_state_as_it_is(self, name: str):
        inner = nag(RATE, 0.9)
        wrappers = {"nag": inner, "apply_if_finite": optax.apply_if_finite(inner, 5), "own": halved(inner)}
        optimizer = wrappers[name]
        model, wrapper, plain, state = self.trained(optimizer)
        params = nnx.state(model, nnx.Param)
        x = eval_params(wrapper.opt_state, params)
        assert jax.tree.structure(x) == jax.tree.structure(params)
        assert isinstance(x, type(params))
        expected = eval_params(state, plain)
        assert_trees_close(jax.tree.leaves(x), jax.tree.leaves(expected), rtol=1e-6)
        moved = [
            not np.allclose(a, b, atol=1e-4)
            for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(params), strict=True)
        ]
        assert any(moved)

    def test_plain_dictionary_of_the_parameters(self):
        """Its paths lack the variable around each leaf."""
        model, wrapper, _, _ = self.trained(nag(RATE, 0.9))
        params = nnx.state(model, nnx.Param)
        x = eval_params(wrapper.opt_state, nnx.to_pure_dict(params))
        expected = nnx.to_pure_dict(eval_params(wrapper.opt_state, params))
        assert_trees_equal(x, expected)

    def test_model_takes_the_iterate(self):
        model, wrapper, _, _ = self.trained(nag(RATE, 0.9))
        batch = jnp.ones((1, 3))
        model.eval()
        before = model(batch)
        nnx.update(model, eval_params(wrapper.opt_state, nnx.state(model, nnx.Param)))
        assert not np.allclose(model(batch), before)

    def test_inside_nnx_jit(self):
        model, wrapper, plain, state = self.trained(nag(RATE, 0.9))

        @nnx.jit
        def evaluate(model: Model, wrapper: nnx.Optimizer) -> Any:
            return eval_params(wrapper.opt_state, nnx.state(model, nnx.Param))

        x = evaluate(model, wrapper)
        expected = eval_params(state, plain)
        assert_trees_close(jax.tree.leaves(x), jax.tree.leaves(expected), rtol=1e-6)

    def test_gradient_units(self):
        model, wrapper, plain, state = self.trained(nag(RATE, 0.9, accumulate="gradients"))
        x = eval_params(wrapper.opt_state, nnx.state(model, nnx.Param), learning_rate=RATE)
        expected = eval_params(state, plain, learning_rate=RATE)
        assert_trees_close(jax.tree.leaves(x), jax.tree.leaves(expected), rtol=1e-6)

    def test_another_model_s_state_is_refused(self):
        _, wrapper, _, _ = self.trained(nag(RATE, 0.9))
        other = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match="parameters that this state was made for"):
            eval_params(wrapper.opt_state, nnx.state(other, nnx.Param))


class TestNumbers:
    @pytest.mark.parametrize(
        "rate", [RATE, jnp.array(RATE), np.float64(RATE)], ids=["python", "jax", "numpy"]
    )
    def test_gradient_units(self, rate: Any):
        params, state = two_updates(nag(RATE, 0.9, accumulate="gradients"), params_tree())
        assert_trees_close(eval_params(state, params, learning_rate=rate), EXPECTED, rtol=1e-6)

    def test_learning_rate_may_be_traced(self):
        optimizer = optax.chain(scale_by_nesterov(0.9), optax.scale(-RATE))
        params, state = two_updates(optimizer, params_tree())
        evaluate = jax.jit(lambda rate: eval_params(state, params, learning_rate=rate))
        assert_trees_close(evaluate(jnp.array(RATE)), EXPECTED, rtol=1e-6)

    def test_parameter_units_use_no_learning_rate(self):
        params, state = two_updates(nag(RATE, 0.9), params_tree())
        assert_trees_equal(eval_params(state, params, learning_rate=7.0), eval_params(state, params))

    @pytest.mark.parametrize("accumulate", ["updates", "gradients"])
    def test_momentum_zero(self, accumulate: Any):
        params, state = two_updates(nag(RATE, 0.0, accumulate=accumulate), params_tree())
        assert_trees_equal(eval_params(state, params), params)

    def test_before_the_first_step(self):
        params = params_tree()
        assert_trees_equal(eval_params(nag(RATE).init(params), params), params)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    @pytest.mark.parametrize("buffer", [None, jnp.float32])
    def test_low_precision_is_rounded_once(self, dtype: Any, buffer: Any):
        params = jnp.array([1.0, 100.0], dtype)
        optimizer = nag(RATE, 0.9, accumulator_dtype=buffer)
        params, state = two_updates(optimizer, params)
        x = eval_params(state, params)
        assert x.dtype == dtype
        exact = np.asarray(params, np.float32) - np.asarray(state[1].offset, np.float32)
        np.testing.assert_array_equal(x, jnp.asarray(exact, dtype))

    def test_complex(self):
        params, state = two_updates(nag(RATE, 0.9), jnp.array([1 + 2j, -3j]))
        np.testing.assert_allclose(
            eval_params(state, params), primary_iterate(np.array([1 + 2j, -3j])), rtol=1e-6
        )

    def test_none_and_empty_leaves(self):
        params, state = two_updates(nag(RATE, 0.9), {"a": jnp.array([1.0]), "b": None, "c": jnp.ones((0, 2))})
        x = eval_params(state, params)
        assert x["b"] is None
        assert x["c"].shape == (0, 2)
        np.testing.assert_allclose(x["a"], primary_iterate(1.0), rtol=1e-6)

    @pytest.mark.parametrize("params", [{}, (), None], ids=repr)
    def test_empty_tree(self, params: Any):
        assert eval_params(nag(RATE).init(params), params) == params

    def test_tuples_and_lists_keep_their_type(self):
        params = (jnp.ones(2), [jnp.ones(1)], optax.LookaheadParams(jnp.ones(1), jnp.ones(3)))
        params, state = two_updates(nag(RATE, 0.9), params)
        assert_trees_close(
            eval_params(state, params),
            jax.tree.map(lambda p: jnp.full_like(p, primary_iterate(1.0)), params),
            rtol=1e-6,
        )

    def test_its_gradient(self):
        """Pure: dx/dp is 1."""
        params, state = two_updates(nag(RATE, 0.9), jnp.array([1.0, 2.0]))
        slope = jax.grad(lambda p: jnp.sum(eval_params(state, p)))(params)
        np.testing.assert_array_equal(slope, 1.0)


class TestErrors:
    def test_two_on_one_leaf(self):
        params = {"a": jnp.ones(2), "b": jnp.ones(2)}
        optimizer = optax.chain(optax.masked(nag(RATE, 0.9), {"a": True, "b": False}), accelerate(0.5))
        with pytest.raises(ValueError, match=r"two accelerators hold an offset for \['a'\].*keep one"):
            eval_params(optimizer.init(params), params)

    @pytest.mark.parametrize(
        "optimizer",
        [nag(RATE, accumulate="gradients"), optax.chain(scale_by_nesterov(), optax.scale(-RATE))],
        ids=["nag", "scale_by_nesterov"],
    )
    def test_gradient_units_without_a_learning_rate(self, optimizer: optax.GradientTransformation):
        params = jnp.ones(2)
        with pytest.raises(ValueError, match=r"gradient units: pass learning_rate="):
            eval_params(optimizer.init(params), params)

    def test_schedule_for_a_learning_rate(self):
        params = jnp.ones(2)
        with pytest.raises(TypeError, match="learning_rate must be a number, not a schedule"):
            eval_params(nag(RATE).init(params), params, learning_rate=optax.constant_schedule(0.1))  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize(
        "params",
        [{"b": jnp.ones(2)}, {"a": jnp.ones(3)}, {"a": jnp.ones((1, 2))}, jnp.ones(2), {}, [jnp.ones(2)]],
        ids=["name", "length", "rank", "leaf", "empty", "list"],
    )
    def test_parameters_of_another_model(self, params: Any):
        state = nag(RATE).init({"a": jnp.ones(2)})
        with pytest.raises(ValueError, match=r"\['a'\] of shape \(2,\).*this state was made for"):
            eval_params(state, params)

    def test_messages_are_the_same_under_jit(self):
        state = nag_optax.nag(RATE).init({"a": jnp.ones(2)})
        with pytest.raises(ValueError, match="which params lack"):
            jax.jit(eval_params)(state, {"b": jnp.ones(2)})
