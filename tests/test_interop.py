"""Beside the libraries that users have: Optax's wrappers, Flax, Orbax, jax.export."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState
from orbax.checkpoint import v1 as ocp

import nag_optax
from nag_optax import accelerate, eval_params, nag
from tests.helpers import (
    assert_trees_close,
    assert_trees_equal,
    float_count,
    rising,
    sphere,
    train,
)


def params_tree() -> dict[str, jax.Array]:
    return {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0], [0.5]])}


class TestOptax:
    def test_chain_with_parts_on_either_side(self):
        """Clipping before, and a part that only looks after: the same numbers as by hand."""
        optimizer = optax.chain(optax.clip(0.5), nag(0.1, 0.9), optax.identity())
        grads = {"a": jnp.array([0.3, -7.0]), "b": jnp.array([[9.0], [0.1]])}
        updates, _ = optimizer.update(grads, optimizer.init(params_tree()), params_tree())
        expected = jax.tree.map(lambda g: -0.1 * 1.9 * jnp.clip(g, -0.5, 0.5), grads)
        assert_trees_close(updates, expected, rtol=1e-6)

    def test_clip_by_global_norm(self):
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), nag(0.1, 0.9))
        params = params_tree()
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        np.testing.assert_allclose(optax.tree.norm(updates), 0.19, rtol=1e-6)

    def test_masked(self):
        optimizer = optax.masked(nag(0.1, 0.9), {"a": True, "b": False})
        params = params_tree()
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        np.testing.assert_allclose(updates["a"], -0.19 * params["a"], rtol=1e-6)
        assert_trees_equal(updates["b"], params["b"])

    def test_partition_gives_each_leaf_its_own(self):
        parts = {"fast": nag(0.1, 0.9), "frozen": optax.set_to_zero(), "slow": nag(0.01, 0.0)}
        optimizer = optax.partition(parts, {"a": "fast", "b": {"c": "frozen", "d": "slow"}})
        params = {"a": jnp.ones(2), "b": {"c": jnp.ones(3), "d": jnp.ones(1)}}
        trained, _ = train(optimizer, params, sphere, 30)
        fast, _ = train(nag(0.1, 0.9), params["a"], sphere, 30)
        np.testing.assert_allclose(trained["a"], fast, rtol=1e-6)
        assert_trees_equal(trained["b"]["c"], params["b"]["c"])
        np.testing.assert_allclose(trained["b"]["d"], 0.98**30, rtol=1e-5)

    def test_multi_steps_is_one_step_on_the_mean(self, standard_promotion: None):
        grads = jax.tree.map(lambda p: jnp.stack([p, 3 * p, -p, 2 * p]), params_tree())
        inner = nag(optax.cosine_decay_schedule(0.1, 100), lambda count: rising(float_count(count)))
        optimizer = optax.MultiSteps(inner, every_k_schedule=2)
        params, expected = params_tree(), params_tree()
        state, expected_state = optimizer.init(params), inner.init(params)
        update = jax.jit(optimizer.update)
        for k in range(4):
            updates, state = update(jax.tree.map(lambda g: g[k], grads), state, params)  # noqa: B023
            params = optax.apply_updates(params, updates)
        for k in (0, 2):
            mean = jax.tree.map(lambda g: (g[k] + g[k + 1]) / 2, grads)  # noqa: B023
            updates, expected_state = inner.update(mean, expected_state, expected)
            expected = optax.apply_updates(expected, updates)
        assert_trees_close(params, expected, rtol=1e-5)
        # The schedules count optimizer steps, not micro-steps.
        assert_trees_close(state.inner_opt_state, expected_state, rtol=1e-5)

    @pytest.mark.parametrize("poison", [np.nan, np.inf])
    def test_apply_if_finite_freezes_everything(self, poison: float):
        inner = nag(
            optax.exponential_decay(0.1, 10, 0.5), lambda count: rising(float_count(count)), restart="speed"
        )
        optimizer = optax.apply_if_finite(inner, max_consecutive_errors=3)
        params = params_tree()
        update = jax.jit(optimizer.update)
        _, state = update(params, optimizer.init(params), params)
        bad = {**params, "b": params["b"].at[0].set(poison)}
        updates, after = update(bad, state, params)
        assert_trees_equal(updates, jax.tree.map(jnp.zeros_like, params))
        assert_trees_equal(after.inner_state, state.inner_state)
        assert int(after.total_notfinite) == 1
        # Training goes on as if the step had not been.
        resumed, _ = update(params, after, params)
        expected, _ = update(params, state, params)
        assert_trees_equal(resumed, expected)

    def test_lookahead(self, standard_promotion: None):
        """Against two lines by hand: every second step the slow weights take half the way."""
        fast_optimizer = nag(0.1, 0.9)
        optimizer = optax.lookahead(fast_optimizer, sync_period=2, slow_step_size=0.5)
        params = optax.LookaheadParams.init_synced(params_tree())
        state = optimizer.init(params)
        fast = slow = params_tree()
        fast_state = fast_optimizer.init(fast)
        for step in range(6):
            updates, state = optimizer.update(jax.tree.map(lambda p: 2 * p, params.fast), state, params)
            params = optax.apply_updates(params, updates)
            fast_updates, fast_state = fast_optimizer.update(jax.tree.map(lambda p: 2 * p, fast), fast_state)
            fast = optax.apply_updates(fast, fast_updates)
            if step % 2:
                slow = jax.tree.map(lambda s, f: s + 0.5 * (f - s), slow, fast)
                fast = slow
        assert_trees_close(params.fast, fast, rtol=1e-5, atol=1e-6)
        assert_trees_close(params.slow, slow, rtol=1e-5, atol=1e-6)

    def test_reduce_on_plateau_between_learning_rate_and_momentum(self, standard_promotion: None):
        """It is laprop with the rate that the plateau has left."""
        plateau = optax.contrib.reduce_on_plateau(0.5, patience=1)
        optimizer = optax.chain(optax.adam(0.1, b1=0.0), plateau, accelerate(0.9))
        by_hand = optax.inject_hyperparams(nag_optax.laprop)(learning_rate=0.1)
        params = params_tree()
        state, expected_state = optimizer.init(params), by_hand.init(params)
        for step in range(6):
            grads = jax.tree.map(lambda p: p + step, params)  # noqa: B023
            updates, state = optimizer.update(grads, state, params, value=1.0)
            expected_state.hyperparams["learning_rate"] = 0.1 * state[1].scale
            expected, expected_state = by_hand.update(grads, expected_state, params)
            assert_trees_close(updates, expected, rtol=1e-5)
            assert_trees_close(eval_params(state, params), eval_params(expected_state, params), rtol=1e-5)
        assert state[1].scale <= 0.25


@pytest.mark.usefixtures("standard_promotion")  # Flax adds a bias to a batch
class TestFlax:
    def test_linen_train_state(self):
        model = linen.Dense(2)
        batch = jnp.asarray(np.random.default_rng(0).standard_normal((8, 3)), jnp.float32)
        variables = model.init(jax.random.key(0), batch)

        def loss(params: Any) -> jax.Array:
            return jnp.mean(jnp.square(jnp.asarray(model.apply({"params": params}, batch)) - 1.0))

        state: Any = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=nag(0.1, 0.9))
        before = loss(state.params)

        @jax.jit
        def step(state: Any) -> Any:
            return state.apply_gradients(grads=jax.grad(loss)(state.params))

        for _ in range(20):
            state = step(state)
        expected, expected_state = train(nag(0.1, 0.9), variables["params"], loss, 20)
        assert_trees_close(state.params, expected, rtol=1e-4, atol=1e-5)
        assert loss(eval_params(state.opt_state, state.params)) < 0.1 * before
        assert_trees_close(
            eval_params(state.opt_state, state.params), eval_params(expected_state, expected), 1e-4, 1e-5
        )

    @pytest.mark.parametrize(
        "wrap",
        [lambda inner: inner, lambda inner: nag_optax.low_memory(inner, min_size=1)],
        ids=["wide", "one byte"],
    )
    def test_nnx_optimizer(self, wrap):
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        batch = jnp.asarray(np.random.default_rng(0).standard_normal((8, 3)), jnp.float32)
        optimizer = nnx.Optimizer(model, wrap(nag(0.1, 0.9, weight_decay=0.01)), wrt=nnx.Param)

        def loss(model: nnx.Linear) -> jax.Array:
            return jnp.mean(jnp.square(model(batch) - 1.0))

        before = loss(model)

        @nnx.jit
        def step(model: nnx.Linear, optimizer: nnx.Optimizer) -> None:
            optimizer.update(model, nnx.grad(loss)(model))

        for _ in range(20):
            step(model, optimizer)
        assert loss(model) < 0.1 * before
        assert int(optimizer.step[...]) == 20
        params = nnx.state(model, nnx.Param)
        x = eval_params(optimizer.opt_state, params)
        assert jax.tree.structure(x) == jax.tree.structure(params)

    def test_nnx_passes_value(self):
        model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, nag(0.1, 0.9, restart="value"), wrt=nnx.Param)
        grads = nnx.grad(lambda model: jnp.sum(model(jnp.ones((1, 1)))))(model)
        optimizer.update(model, grads, value=jnp.array(1.0))
        with pytest.raises(ValueError, match="value=loss"):
            optimizer.update(model, grads)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "optimizer",
    [
        nag(0.1, 0.9, accumulator_dtype=jnp.float32),
        nag(optax.exponential_decay(0.1, 10, 0.5), nag_optax.momentum.sutskever(0.9), restart="speed"),
        optax.chain(nag_optax.scale_by_nesterov(0.9), optax.scale_by_learning_rate(0.1)),
        nag(0.1, 0.0),
    ],
    ids=["nag", "schedules-and-restart", "scale_by_nesterov", "plain"],
)
def test_orbax_saves_and_restores_the_state(optimizer: optax.GradientTransformation, tmp_path: Path):
    start = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params_tree())
    params, state = train(optimizer, start, sphere, 5)
    path = str(tmp_path / "checkpoint")
    ocp.save_checkpointables(path, {"params": params, "state": state})

    def abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    wanted = jax.tree.map(abstract, {"params": start, "state": optimizer.init(start)})
    restored = ocp.load_checkpointables(path, wanted)
    assert_trees_equal(restored, {"params": params, "state": state})
    update = jax.jit(optimizer.update)
    assert_trees_equal(update(params, restored["state"], restored["params"]), update(params, state, params))


@pytest.mark.parametrize("restart", [None, "gradient"])
def test_export_of_a_jitted_step(restart: Any):
    optimizer = optax.chain(optax.sgd(0.1), accelerate(nag_optax.momentum.sutskever(0.9), restart=restart))
    params = params_tree()
    leaves, treedef = jax.tree.flatten((params, optimizer.init(params)))

    # Leaves alone: an exported program knows no tree types of other packages.
    @jax.jit
    def step(*leaves: jax.Array) -> list[jax.Array]:
        params, state = treedef.unflatten(leaves)
        updates, state = optimizer.update(jax.tree.map(lambda p: 2 * p, params), state, params)
        return jax.tree.leaves((optax.apply_updates(params, updates), state))

    program = jax.export.deserialize(jax.export.export(step)(*leaves).serialize())
    expected = leaves
    for _ in range(3):
        leaves, expected = program.call(*leaves), step(*expected)
        assert_trees_equal(list(leaves), list(expected))
    assert not np.array_equal(leaves[0], params["a"])
