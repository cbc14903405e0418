"""What holds for every optimizer that goes around another one."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nag_optax import OuterState, accelerate, ema_nesterov, eval_params, gpa, nag, snoo
from tests.helpers import arrays_like, assert_trees_close, assert_trees_equal, dtypes, sphere, train

WRAPPERS: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {
    "snoo": lambda inner, **kwargs: snoo(inner, 2, 0.5, 0.5, **kwargs),
    "ema_nesterov": lambda inner, **kwargs: ema_nesterov(inner, 0.5, 0.5, **kwargs),
    "gpa": lambda inner, **kwargs: gpa(inner, 0.5, 0.5, **kwargs),
}
over_wrappers = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)

# The iterates after three steps down p² from p = 1 with u = −0.2 p, by hand.
# snoo: fast .8; .64, δ = .36, b = .36, slow = 1 − .5·(.36 + .18) = .73; fast .584.
# ema_nesterov: x = .8, m = −.1, p = .75; x = .6, m = −.15, p = .525; x = .42.
# gpa: z = x·.. = .8, x = .9, y = .85; z = .63, x = .765, y = .6975; z = .4905, x = .62775.
EXPECTED = {"snoo": (0.584, 0.73), "ema_nesterov": (0.3375, 0.42), "gpa": (0.559125, 0.62775)}


def tree() -> dict[str, Any]:
    return {"body": {"w": jnp.array([[1.0, -2.0]]), "b": jnp.array([0.5])}, "head": jnp.array([3.0, 4.0])}


def three_updates(optimizer: Any, params: Any, gradient: Callable = lambda p: 2 * p) -> tuple[Any, Any]:
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(3):
        updates, state = update(jax.tree.map(gradient, params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


LABELS = {"body": {"w": "first", "b": "second"}, "head": "second"}
MASK = {"body": {"w": True, "b": True}, "head": False}
NESTED: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "alone": lambda make: make(),
    "chain": lambda make: optax.chain(optax.clip(1e9), optax.chain(make())),
    "apply_if_finite": lambda make: optax.apply_if_finite(make(), 5),
    "inject_hyperparams": lambda make: optax.inject_hyperparams(lambda rate: optax.chain(make()))(rate=1.0),
    "partition": lambda make: optax.partition({"first": make(), "second": make()}, LABELS),
    "masked-halves": lambda make: optax.chain(
        optax.masked(make(), MASK), optax.masked(make(), jax.tree.map(lambda flag: not flag, MASK))
    ),
}


class TestEvalParams:
    @pytest.mark.parametrize("name", WRAPPERS)
    @pytest.mark.parametrize("nested", NESTED)
    def test_finds_the_outer_iterate(self, name: str, nested: str):
        """Of an accelerator inside too: with momentum 0 its iterate would be the parameters."""
        optimizer = NESTED[nested](lambda: WRAPPERS[name](nag(0.1, 0.0)))
        params, state = three_updates(optimizer, tree())
        p, x = EXPECTED[name]
        assert_trees_close(params, jax.tree.map(lambda leaf: p * leaf, tree()), rtol=1e-6)
        for evaluate in (eval_params, jax.jit(eval_params)):
            found = evaluate(state, params)
            assert_trees_close(found, jax.tree.map(lambda leaf: x * leaf, tree()), rtol=1e-6)

    @over_wrappers
    def test_an_inner_lookahead_is_not_read(self, wrap: Callable):
        """None is needed: the iterate of an inner state in gradient units would ask for a learning rate."""
        params, state = three_updates(wrap(nag(0.1, 0.9, accumulate="gradients")), tree())
        alone = OuterState(state.evaluated, (), ())
        assert_trees_equal(eval_params(state, params), eval_params(alone, params))
        assert not np.allclose(eval_params(state, params)["head"], params["head"])

    @over_wrappers
    def test_before_the_first_step(self, wrap: Callable):
        assert_trees_equal(eval_params(wrap(optax.sgd(0.1)).init(tree()), tree()), tree())

    @pytest.mark.parametrize("name", WRAPPERS)
    def test_vmapped_state(self, name: str):
        """One scalar for each lane, and parameters of every rank."""
        params = jax.tree.map(lambda p: jnp.stack([p, 2 * p, 3 * p]), tree())
        lanes, state = jax.vmap(lambda p: three_updates(WRAPPERS[name](optax.sgd(0.1)), p))(params)
        expected = jax.tree.map(lambda p: EXPECTED[name][1] * p, params)
        for x in (eval_params(state, lanes), jax.vmap(eval_params)(state, lanes)):
            assert_trees_close(x, expected, rtol=1e-6)

    @over_wrappers
    def test_nnx(self, wrap: Callable, standard_promotion: None):
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        optimizer = wrap(optax.sgd(0.1, 0.9))
        wrapper = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
        plain = nnx.state(model, nnx.Param)
        state = optimizer.init(plain)
        x = eval_params(wrapper.opt_state, plain)
        assert_trees_equal(jax.tree.leaves(x), jax.tree.leaves(plain))
        for _ in range(3):
            grads = nnx.grad(lambda model: jnp.mean(jnp.square(model(jnp.eye(3)))))(model)
            updates, state = optimizer.update(grads, state, plain)
            plain = optax.apply_updates(plain, updates)
            wrapper.update(model, grads)
        x = eval_params(wrapper.opt_state, nnx.state(model, nnx.Param))
        assert_trees_close(jax.tree.leaves(x), jax.tree.leaves(eval_params(state, plain)), rtol=1e-6)
        assert not np.allclose(jax.tree.leaves(x)[1], jax.tree.leaves(plain)[1], rtol=1e-3)

    @over_wrappers
    def test_two_iterates_for_one_leaf(self, wrap: Callable):
        optimizer = optax.chain(wrap(optax.sgd(0.1)), accelerate(0.9))
        with pytest.raises(ValueError, match="two accelerators hold an offset.*keep one"):
            eval_params(optimizer.init(tree()), tree())

    @over_wrappers
    def test_parameters_of_another_model(self, wrap: Callable):
        state = wrap(optax.sgd(0.1)).init({"a": jnp.ones(2)})
        with pytest.raises(ValueError, match=r"\['a'\] of shape \(2,\).*this state was made for"):
            eval_params(state, {"a": jnp.ones(3)})


class TestInner:
    @over_wrappers
    def test_extra_arguments_reach_it(self, wrap: Callable):
        def update(updates, state, params=None, *, scale, **extra_args):
            assert extra_args == {"unknown": "text"}
            return jax.tree.map(lambda u, p: -scale * (u + p), updates, params), state

        inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
        optimizer, params = wrap(inner), {"a": jnp.ones(2)}
        state = optimizer.init(params)
        updates, _ = optimizer.update({"a": jnp.zeros(2)}, state, params, scale=0.2, unknown="text")
        plain = wrap(optax.sgd(0.2))
        expected, _ = plain.update(params, plain.init(params), params)
        assert_trees_close(updates, expected, rtol=1e-6)

    @over_wrappers
    def test_without_extra_arguments(self, wrap: Callable):
        inner = optax.GradientTransformation(lambda params: (), lambda u, s, p=None: (u, s))
        params = jnp.ones(2)
        updates, _ = wrap(inner).update(params, wrap(inner).init(params), params, value=1.0)
        assert updates.shape == (2,)

    @over_wrappers
    @pytest.mark.parametrize("inner", [0.1, optax.sgd, optax.MultiSteps(optax.sgd(0.1), 2), None])
    def test_must_be_a_transformation(self, wrap: Callable, inner: Any):
        with pytest.raises(
            TypeError, match=r"inner must be an optax.GradientTransformation.*; got .* of type"
        ):
            wrap(inner)

    @over_wrappers
    def test_updates_narrower_than_the_gradients(self, wrap: Callable):
        """What the wrapper adds to a step in bfloat16 is not rounded to bfloat16."""

        def inner(dtype: Any) -> optax.GradientTransformation:
            rounded = optax.stateless(
                lambda u, _: jax.tree.map(lambda g: (-0.1 * g).astype(jnp.bfloat16).astype(dtype), u)
            )
            return wrap(rounded)

        (narrow, state), (exact, _) = (three_updates(inner(d), tree()) for d in (jnp.bfloat16, jnp.float32))
        assert dtypes(narrow) == dtypes(tree())
        assert dtypes(state) == dtypes(inner(jnp.bfloat16).init(tree()))
        assert_trees_equal(narrow, exact)

    @over_wrappers
    def test_multi_steps_inside(self, wrap: Callable, standard_promotion: None):
        """Every second inner step is zero, and is a step all the same."""
        inner = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
        params, state = three_updates(wrap(inner), tree(), jnp.ones_like)
        alternate = optax.scale_by_schedule(lambda count: -0.1 * (jnp.asarray(count) % 2))
        expected, plain = three_updates(wrap(alternate), tree(), jnp.ones_like)
        assert_trees_close(params, expected, rtol=1e-6)
        assert_trees_close(eval_params(state, params), eval_params(plain, expected), rtol=1e-6)
        assert not np.allclose(params["head"], tree()["head"])

    @over_wrappers
    def test_multi_steps_around(self, wrap: Callable, standard_promotion: None):
        optimizer, params = optax.MultiSteps(wrap(optax.sgd(0.1)), 2), tree()
        state, update = optimizer.init(params), jax.jit(optimizer.update)
        for _ in range(6):
            updates, state = update(jax.tree.map(lambda p: 2 * p, params), state, params)
            params = optax.apply_updates(params, updates)
        expected, plain = three_updates(wrap(optax.sgd(0.1)), tree())
        assert_trees_close(params, expected, rtol=1e-6)
        assert_trees_close(eval_params(state, params), eval_params(plain, expected), rtol=1e-6)

    @over_wrappers
    @pytest.mark.parametrize("buffer", [None, jnp.float32], ids=["own", "f32"])
    def test_adam_with_bfloat16_parameters(self, wrap: Callable, buffer: Any, standard_promotion: None):
        """Its float32 moments stay its own; the wrapper's buffers have their dtype from init on."""
        params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), tree())
        optimizer = wrap(optax.adam(0.1, mu_dtype=jnp.float32), accumulator_dtype=buffer)
        trained, state = train(optimizer, params, sphere, 60)
        assert dtypes(trained) == dtypes(params)
        assert dtypes(state) == dtypes(optimizer.init(params))
        own = arrays_like((state.evaluated, state.method_state), params)
        assert {b.dtype for b in own} == {jnp.dtype(buffer or jnp.bfloat16)}
        assert sphere(eval_params(state, trained)) < 0.2 * sphere(params)


class TestFaultsOfOthers:
    @over_wrappers
    def test_nan_poisons_momentum_for_ever(self, wrap: Callable):
        """Guarded, a bad step leaves no trace, in the counters neither."""
        params = jnp.ones(1)
        guarded, plain = optax.apply_if_finite(wrap(optax.sgd(0.1)), 5), wrap(optax.sgd(0.1))
        state, expected_state = guarded.init(params), plain.init(params)
        for gradient in (params, jnp.array([jnp.nan]), 2 * params, params):
            updates, state = guarded.update(gradient, state, params)
            if jnp.isfinite(gradient[0]):
                expected, expected_state = plain.update(gradient, expected_state, params)
                assert_trees_equal(updates, expected)
        assert_trees_equal(state.inner_state, expected_state)

    @over_wrappers
    def test_state_aliases_the_parameters(self, wrap: Callable):
        optimizer, params = wrap(optax.sgd(0.1)), {"a": jnp.zeros(8), "b": jnp.zeros(8)}
        state = optimizer.init(params)
        for _ in range(2):
            leaves = jax.tree.leaves((params, state))
            assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
            updates, state = optimizer.update(params, state, params)

    @over_wrappers
    def test_tree_of_another_model(self, wrap: Callable):
        optimizer, params = wrap(optax.sgd(0.1)), {"a": jnp.ones(3)}
        with pytest.raises(ValueError, match=r"update \['a'\] has shape \(1,\)"):
            optimizer.update({"a": jnp.ones(1)}, optimizer.init(params), params)
