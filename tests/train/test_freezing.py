"""Frozen parameters: named by patterns, unmoved to the bit, without state, statistics included."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nag_optax.train.errors import InputError
from nag_optax.train.freezing import fix_statistics, frozen_mask
from nag_optax.train.models import make_model
from nag_optax.train.registry import MODELS
from tests.helpers import exhaustive
from tests.train.test_loop import make_loop, numbers
from tests.train.test_pruning import units_of

TREE = {
    "conv1": {"kernel": jnp.ones((2, 2))},
    "conv2": {"kernel": jnp.ones((2, 2))},
    "head": {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))},
}


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ((), set()),
        (("conv1/kernel",), {"conv1/kernel"}),
        (("conv*",), {"conv1/kernel", "conv2/kernel"}),
        (("*/kernel",), {"conv1/kernel", "conv2/kernel", "head/kernel"}),
        (("conv1", "head/b*"), {"conv1/kernel", "head/bias"}),
        (("head",), {"head/kernel", "head/bias"}),
        (("conv?",), {"conv1/kernel", "conv2/kernel"}),
    ],
)
def test_a_pattern_names_parameters_or_modules(patterns, frozen):
    flat = jax.tree_util.tree_flatten_with_path(frozen_mask(patterns, TREE))[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in flat if leaf}
    assert named == frozen


def test_a_pattern_that_names_nothing_is_refused():
    paths = "conv1/kernel, conv2/kernel, head/bias, head/kernel"
    with pytest.raises(InputError, match=f"--freeze con: matches no parameter; the parameters are {paths}"):
        frozen_mask(("conv1", "con"), TREE)


@pytest.mark.parametrize(
    "fields",
    [
        {"weight_decay": 0.1, "clip_norm": 0.1},
        exhaustive({"optimizer": "adamw", "smoothing": 0.5}),
        exhaustive({"optimizer": "momentum", "weight_decay": 0.1}),
        {"prune": "group_l2=0.1"},
        {"optimizer": "muon", "weight_decay": 0.1},
        exhaustive({"optimizer": "snoo", "adaptive_step": True}),
    ],
)
def test_frozen_parameters_stay_to_the_bit_and_have_no_state(fields):
    frozen, size_of_it = ("head", 128 * 10 + 10) if "prune" in fields else ("hidden", 64 * 128 + 128)
    loop, whole = make_loop(freeze=(frozen,), **fields), make_loop(**fields)
    state = loop.init()
    assert loop.num_frozen == size_of_it and whole.num_frozen == 0

    def size(opt_state):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(opt_state))

    buffers = (size(whole.init().opt_state) - size(state.opt_state)) / (4 * loop.num_frozen)
    # Of muon one for the kernel and two for the bias; of snoo two, and two of adamw.
    muon = (64 * 128 + 2 * 128) / (64 * 128 + 128)
    expected = {"adamw": 3, "momentum": 1, "muon": muon, "snoo": 4}.get(str(fields.get("optimizer")), 1)
    assert buffers == expected
    before = numbers(state)
    after = numbers(loop.run_chunk(state, 3))
    for name in before:
        if f"['{frozen}']" in name:
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
        elif name.startswith(".params"):
            assert not np.array_equal(after[name], before[name]), name


def test_clipping_is_by_the_gradients_of_what_is_trained():
    """With the hidden layer frozen, a step is clip_norm long in the other layers."""
    loop = make_loop(
        freeze=("hidden",), clip_norm=1e-3, optimizer="sgd", learning_rate=1.0, warmup_epochs=0.0
    )
    state = loop.init()
    before = numbers(state)
    after = numbers(loop.run_chunk(state, 1))
    moved = np.sqrt(sum(np.sum((after[n] - before[n]) ** 2) for n in before if n.startswith(".params")))
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)


def test_a_frozen_batch_normalisation_is_a_fixed_function():
    loop = make_loop(model="cnn", freeze=("conv1", "norm1", "norm2/scale"))
    state = loop.init()
    params, rest = state.params, dict(state.model_state)
    # As after training: the statistics differ from the batch's.
    rest["norm1"] = {"mean": jnp.full(64, 0.3), "var": jnp.full(64, 2.0)}
    state = loop.init((params, rest))
    after = loop.run_chunk(state, 1)
    np.testing.assert_array_equal(after.model_state["norm1"]["mean"], np.float32(0.3))
    np.testing.assert_array_equal(after.model_state["norm1"]["var"], 2.0)
    assert (np.asarray(after.model_state["norm2"]["mean"]) != 0).all()  # it has a bias to train

    def second_layer_mean(mean):
        state = loop.init((params, rest | {"norm1": {"mean": jnp.full(64, mean), "var": jnp.full(64, 2.0)}}))
        return np.asarray(loop.run_chunk(state, 1).model_state["norm2"]["mean"])

    # While training, too, it normalises with these statistics and not with the batch's.
    assert np.abs(second_layer_mean(0.3) - second_layer_mean(-3.0)).max() > 0.01


def test_a_frozen_batch_normalisation_within_a_block_is_a_fixed_function_too():
    model: Any = nnx.eval_shape(lambda: make_model("resnet18", (8, 8, 1), 3, 0))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    fix_statistics(model, frozen_mask(("stage0_block0", "*/norm2", "*/shortcut_norm/bias"), params))
    fixed = {
        "/".join(map(str, path))
        for path, module in nnx.iter_graph(model)
        if isinstance(module, nnx.BatchNorm) and module.use_running_average
    }
    blocks = {f"stage{i}_block{j}/norm2" for i in range(4) for j in range(2)}
    assert fixed == blocks | {"stage0_block0/norm1"}


def test_pruning_spares_the_layers_that_are_frozen():
    loop = make_loop(model="cnn", freeze=("conv1", "norm2/scale"), prune="group_l2=1e3")
    end = loop.eval_state(loop.run_chunk(loop.init(), 1))[0]
    for module, key in (("conv1", "kernel"), ("norm1", "scale"), ("conv2", "kernel"), ("norm2", "scale")):
        assert (np.asarray(end[module][key]) != 0).all(), (module, key)
    assert (units_of(end, MODELS["cnn"].hidden_layers[2]) == 0).all()


def test_the_mask_is_that_of_a_partition():
    """MaskedNode is what a prox sees of a frozen parameter: the spared layers rest on it."""
    seen = []
    spy = optax.stateless(lambda updates, params: seen.append(params) or updates)
    mask = frozen_mask(("conv1",), TREE)
    labels = jax.tree.map(lambda frozen: "b" if frozen else "a", mask)
    optimizer = optax.partition({"a": spy, "b": optax.set_to_zero()}, labels)
    optimizer.update(TREE, optimizer.init(TREE), TREE)
    assert isinstance(seen[0]["conv1"]["kernel"], optax.MaskedNode)
