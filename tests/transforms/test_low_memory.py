"""State in one byte a number: the code of the transcription, its floor, and every optimizer around it."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportOptionalMemberAccess=false

import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

import nag_optax
from nag_optax import low_memory
from nag_optax.transforms import codes
from nag_optax.transforms.low_memory import unpack
from nag_optax.transforms.stochastic_rounding import random_bits, uniform
from tests import reference
from tests.helpers import assert_trees_close, assert_trees_equal, exhaustive, sphere, step_function

SHAPE = (64, 128)

OPTIMIZERS = {
    "nag": lambda: nag_optax.nag(0.05),
    "adamw": lambda: optax.adamw(0.02),
    "adan": lambda: nag_optax.adan(0.02),
    "nadam": lambda: nag_optax.nadam(0.02),
    "laprop": lambda: nag_optax.laprop(0.005),
    "muon": lambda: nag_optax.muon(0.02),
    "lion": lambda: optax.lion(0.01),
    "adafactor": lambda: optax.adafactor(0.02, min_dim_size_to_factor=1024),
    "snoo": lambda: nag_optax.snoo(optax.adamw(0.02), 5),
    "schedule": lambda: nag_optax.nag(optax.exponential_decay(0.1, 10, 0.9), nag_optax.momentum.fista()),
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=0.02),
    "partition": lambda: optax.partition(
        {"a": nag_optax.nag(0.05), "b": optax.adamw(0.02)}, {"w": "a", "b": "b"}
    ),
    "masked": lambda: optax.masked(nag_optax.nag(0.05), {"w": True, "b": False}),
    "multi-steps": lambda: optax.MultiSteps(optax.adamw(0.02), 2).gradient_transformation(),
}

over_optimizers = pytest.mark.parametrize("name", OPTIMIZERS)
pytestmark = pytest.mark.usefixtures("standard_promotion")  # Optax's own parts mix dtypes


def model() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(rng.standard_normal(SHAPE), jnp.float32), "b": jnp.ones(128)}


class TestCode:
    @pytest.mark.parametrize("shape", [(64, 128), (100, 77), (3, 3, 16, 8), (5000,), (8, 513)], ids=str)
    @pytest.mark.parametrize("signed", [True, False], ids=["signed", "squares"])
    def test_codes_are_the_transcription_bit_for_bit(self, shape: tuple[int, ...], signed: bool):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        x = x if signed else x**8

        @jax.jit
        def roundtrip(x: jax.Array, step: jax.Array) -> Any:
            packed = codes.encode(x, uniform(random_bits(x.shape, step, 2, 0)), 128)
            return *packed, codes.decode(*packed, 128)

        q, s, back = (np.ravel(a) for a in roundtrip(x, jnp.int32(9)))
        expected = reference.encode(x.ravel(), reference.counter_uniform(x.size, 9, 2), 128)
        np.testing.assert_array_equal(q, expected[0])
        np.testing.assert_array_equal(s, expected[1])
        # Without a division: a rounding of the reciprocal, and one of the product.
        np.testing.assert_array_max_ulp(back, reference.decode(*expected, 128), 2)

    def test_the_mean_of_many_roundings_is_the_number(self):
        """In units of the code, where a rounding is uniform: three standard errors of 4096 draws."""
        x = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, 128), (4096, 128))
        q, _ = codes.encode(x, uniform(random_bits(x.shape, jnp.int32(0), 0, 0)), 128)
        y = 254 * x[0] / (1 + jnp.abs(x[0]))
        assert (jnp.abs(q.astype(float).mean(0) - y) < 3 * 0.5 / np.sqrt(4096) + 1e-4).mean() > 0.98

    def test_the_largest_number_of_a_block_is_itself(self):
        """Else a state that stands still would drift."""
        x = jnp.array([[3.0, 1.0, 0.0, -2.0], [-1e-30, 1e-31, 0.0, 0.0]])
        back = jax.jit(lambda x: codes.decode(*codes.encode(x, jnp.full(x.shape, 0.999), 4), 4))(x)
        np.testing.assert_array_equal(back[:, 0], x[:, 0])

    def test_a_block_of_zeros_stays_one(self):
        with jax.debug_nans(True):
            q, s = codes.encode(jnp.zeros((2, 128)), jnp.full((2, 128), 0.999), 128)
        assert not q.any() and not s.any() and not codes.decode(q, s, 128).any()

    def test_a_positive_number_among_squares_is_never_zero(self):
        squares = jnp.full((1, 128), 1e-20).at[0, 0].set(1.0)
        q, s = codes.encode(squares, jnp.zeros((1, 128)), 128)
        assert (q >= 1).all() and (codes.decode(q, s, 128) > 0).all()
        q, _ = codes.encode(-squares, jnp.full((1, 128), 0.999), 128)
        assert (q[0, 1:] == 0).all()

    def test_what_is_no_number_spoils_its_block_alone(self):
        x = jnp.ones((2, 128)).at[0, 3].set(jnp.nan)
        back = codes.decode(*codes.encode(x, jnp.zeros((2, 128)), 128), 128)
        assert jnp.isnan(back[0]).all() and (back[1] == 1).all()


def test_without_the_floor_adam_divides_by_zero(monkeypatch: pytest.MonkeyPatch):
    """A gradient that was small beside its neighbours, and then 0: an average of it, none of its square."""
    optimizer = low_memory(optax.adam(1e-3, eps=0.0))
    neighbours = jnp.where(jnp.arange(4096) % 2 == 0, 1.0, 0.0).reshape(1, 4096)
    grads = jnp.stack([neighbours + 1e-4, neighbours, neighbours])

    def updates() -> jax.Array:
        def step(state: Any, g: jax.Array) -> Any:
            u, state = optimizer.update(g, state)
            return state, u

        return jax.jit(lambda grads: jax.lax.scan(step, optimizer.init(grads[0]), grads)[1])(grads)

    assert jnp.isfinite(updates()).all()
    monkeypatch.setattr(codes, "_least", lambda blocks, low: -codes.LARGEST)
    assert not jnp.isfinite(updates()).all()


def test_each_step_and_leaf_and_seed_rounds_by_its_own_numbers():
    """Two steps of the transcription; a half and a sum of two numbers round alike everywhere."""
    grads = {name: model()["w"] for name in ("a", "b")}
    numbers = np.asarray(grads["a"]).ravel()

    def two_steps(seed: int) -> Any:
        optimizer = low_memory(optax.trace(0.5), seed=seed)
        state = optimizer.init(grads)
        for _ in range(2):
            state = optimizer.update(grads, state)[1]
        return state

    found = two_steps(0)
    for leaf, name in enumerate(grads):
        codes, scales = reference.encode(numbers, reference.counter_uniform(numbers.size, 1, leaf), 128)
        second = numbers + np.float32(0.5) * reference.decode(codes, scales, 128)
        codes, scales = reference.encode(second, reference.counter_uniform(numbers.size, 2, leaf), 128)
        np.testing.assert_array_equal(found.inner_state.trace[name].ravel(), codes)
        np.testing.assert_array_equal(found.packing[f"{leaf}-float32-128"].ravel(), scales)
    assert not jnp.array_equal(found.inner_state.trace["a"], two_steps(1).inner_state.trace["a"])


def test_a_step_keeps_no_float32_array_beside_the_state():
    """A second reduction over the blocks would keep one, and a division in the code's inverse another."""
    params = jnp.ones((512, 512))
    optimizer = low_memory(nag_optax.nag(0.1))
    step = jax.jit(optimizer.update, donate_argnums=1)
    memory = step.lower(params, optimizer.init(params)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1.2 * params.size  # one byte, and the scales


def test_a_new_state_is_not_packed_by_the_compiler():
    """XLA folds constants one number after the other: a minute for a million."""
    text = jax.jit(low_memory(optax.adam(0.1)).init).lower(jnp.ones(SHAPE)).compile().as_text()
    assert " reduce(" in text


@over_optimizers
@pytest.mark.parametrize("dtype", [jnp.int8, jnp.bfloat16], ids=["int8", "bf16"])
def test_every_optimizer_descends_as_with_wide_state(name: str, dtype: Any):
    inner, params = OPTIMIZERS[name](), model()
    optimizer = low_memory(inner, dtype)
    step = jax.jit(step_function(optimizer, sphere), donate_argnums=(0, 1))
    carry = jax.tree.map(jnp.copy, params), optimizer.init(params)
    wide_step = jax.jit(step_function(inner, sphere))
    wide = params, inner.init(params)
    for _ in range(40):
        given = jax.tree.leaves(carry[0]) + packed_arrays(carry[1])
        carry, wide = step(*carry), wide_step(*wide)
        assert all(leaf.is_deleted() for leaf in given)
    assert packed_arrays(carry[1])
    start, low, high = (float(sphere(p["w"])) for p in (params, carry[0], wide[0]))
    # A tenth of the way is more than rounding may cost.
    assert low - high < 0.1 * (start - high)


def packed_arrays(state: Any) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(state) if leaf.dtype in (jnp.int8, jnp.bfloat16)]


def test_bytes_a_number():
    """1 + 4/128 bytes for each number of an average. Small arrays and slow weights keep float32."""
    params = {"w": jnp.ones((512, 512)), "b": jnp.ones(512)}
    numbers, few = 512 * 512, 512
    counters = 64
    for inner, large in ((optax.adamw(0.1), 2 * 1.03125), (nag_optax.nag(0.1), 1.03125)):
        state = low_memory(inner).init(params)
        small = 4 * few * (2 if large > 2 else 1)
        assert 0 <= sum(x.nbytes for x in jax.tree.leaves(state)) - large * numbers - small < counters
    slow = low_memory(nag_optax.snoo(nag_optax.nag(0.1))).init(params)
    assert sum(x.size == numbers and x.dtype == jnp.float32 for x in jax.tree.leaves(slow)) == 1


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.bfloat16], ids=["int8", "bf16"])
@pytest.mark.parametrize("library", ["orbax", "flax"])
def test_a_run_that_is_resumed_rounds_alike(library: str, dtype: Any, tmp_path: Path):
    optimizer, params = low_memory(optax.adamw(0.02), dtype), model()
    step = jax.jit(step_function(optimizer, sphere))
    params, state = step(*step(params, optimizer.init(params)))
    saved, wanted = {"params": params, "state": state}, {"params": params, "state": optimizer.init(params)}
    if library == "flax":
        restored = serialization.from_bytes(wanted, serialization.to_bytes(saved))
    else:
        ocp.save_checkpointables(str(tmp_path / "checkpoint"), saved)
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), wanted)
        restored = ocp.load_checkpointables(str(tmp_path / "checkpoint"), wanted)
    assert_trees_equal(step(restored["params"], restored["state"]), step(params, state))
    # Another step, other random numbers.
    assert not jnp.array_equal(random_bits((8,), jnp.int32(2), 0, 0), random_bits((8,), jnp.int32(3), 0, 0))


def test_bytes_are_not_restored_as_bfloat16(tmp_path: Path):
    """Orbax would cast the codes, and a momentum of 0.3 be one of 127."""
    optimizer, params = nag_optax.nag(0.1), model()
    ocp.save_checkpointables(str(tmp_path / "checkpoint"), {"state": low_memory(optimizer).init(params)})
    wanted = {"state": low_memory(optimizer, jnp.bfloat16).init(params)}
    with pytest.raises(KeyError, match="state"):
        ocp.load_checkpointables(str(tmp_path / "checkpoint"), wanted)


def test_export_of_a_step():
    optimizer, params = low_memory(optax.adamw(0.02)), model()
    leaves, treedef = jax.tree.flatten((params, optimizer.init(params)))

    @jax.jit
    def step(*leaves: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(step_function(optimizer, sphere)(*treedef.unflatten(leaves)))

    program = jax.export.deserialize(jax.export.export(step)(*leaves).serialize())
    assert_trees_equal(list(program.call(*leaves)), step(*leaves))


def test_structure_and_dtypes_are_stable():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), model())
    optimizer = low_memory(nag_optax.nag(0.1, accumulator_dtype=jnp.bfloat16))
    state = optimizer.init(params)
    _, new = jax.eval_shape(optimizer.update, params, state, params)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert {x.dtype for x in jax.tree.leaves(unpack(state))} >= {jnp.dtype(jnp.bfloat16)}


def test_the_iterate_is_the_unpacked_state_s():
    optimizer, params = low_memory(nag_optax.nag(0.1)), model()
    params, state = step_function(optimizer, sphere)(params, optimizer.init(params))
    expected = nag_optax.eval_params(unpack(state), params)
    assert_trees_equal(nag_optax.eval_params(state, params), expected)
    assert_trees_equal(nag_optax.eval_params(optax.MultiSteps(optimizer, 2).init(model()), model()), model())


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.bfloat16], ids=["int8", "bf16"])
@pytest.mark.parametrize("wrapper", ["none", "injected", "masked"])
def test_map_params_finds_the_codes(wrapper: str, dtype: Any):
    """The shardings of the parameters fit them, and codes of 0 are a state of zeros."""
    optimizer, params = low_memory(optax.adam(0.1), dtype), model()
    if wrapper == "injected":
        inject = optax.inject_hyperparams(low_memory, static_args=("dtype", "block_size", "min_size"))
        optimizer = inject(inner=optax.adam(0.1), dtype=dtype)
    elif wrapper == "masked":
        optimizer = optax.masked(optimizer, {"w": True, "b": False})
    state = optimizer.update(params, optimizer.init(params), params)[1]
    zeros = optax.tree.map_params(optimizer, jnp.zeros_like, state)
    nothing = optax.tree.zeros_like(params)
    assert_trees_equal(optimizer.update(nothing, zeros, params)[0], nothing)

    whole, split = (NamedSharding(jax.make_mesh((1,), ("d",)), PartitionSpec(*axes)) for axes in ((), ("d",)))
    shardings = optax.tree.map_params(
        optimizer,
        lambda leaf, sharding: sharding if hasattr(leaf, "shape") else leaf,
        state,
        {"w": split, "b": whole},
        transform_non_params=lambda _: whole,
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
    )
    placed = jax.device_put(state, shardings)
    packed = [(leaf.dtype, leaf.sharding.spec) for leaf in packed_arrays(placed) if leaf.ndim]
    assert packed == 2 * [(dtype, split.spec)]
    assert_trees_equal(placed, state)


def test_a_dtype_may_have_a_name():
    assert {x.dtype for x in packed_arrays(low_memory(optax.adam(0.1), "bfloat16").init(model()))} == {
        jnp.dtype(jnp.bfloat16)
    }


def test_refuses_codes_that_became_other_numbers():
    optimizer, params = low_memory(optax.adam(0.1)), model()
    state = optax.tree.map_params(optimizer, lambda leaf: 0.5 * leaf, optimizer.init(params))
    with pytest.raises(TypeError, match="^a packed array must stay int8 or bfloat16; opt_state has float32"):
        optimizer.update(params, state, params)


@pytest.mark.parametrize(("shape", "block_size"), [((7, 11), 16), ((10,), 16), ((), 16)], ids=str)
def test_the_iterates_of_a_vmapped_optimizer(shape: tuple[int, ...], block_size: int):
    """The lanes of an array that fills no whole number of blocks are not the blocks of one large array."""
    optimizer = low_memory(nag_optax.nag(0.1), block_size=block_size, min_size=1)
    params = jnp.linspace(-1.0, 1.0, 2 * math.prod(shape)).reshape(2, *shape)
    params, state = jax.vmap(step_function(optimizer, sphere))(params, jax.vmap(optimizer.init)(params))
    expected = jax.vmap(nag_optax.eval_params)(state, params)
    assert_trees_close(nag_optax.eval_params(state, params), expected, rtol=1e-6)


@pytest.mark.four_devices
@pytest.mark.parametrize(
    ("axis", "spec", "shape"),
    [
        # Each value once; the exhaustive run has each triple.
        (AxisType.Auto, ("d", None), (64, 512)),
        (AxisType.Explicit, (None, "d"), (128, 96)),
        exhaustive(AxisType.Auto, (None, "d"), (128, 96)),
        exhaustive(AxisType.Explicit, ("d", None), (128, 96)),
        exhaustive(AxisType.Explicit, (None, "d"), (64, 512)),
        exhaustive(AxisType.Auto, ("d", None), (128, 96)),
        exhaustive(AxisType.Auto, (None, "d"), (64, 512)),
        exhaustive(AxisType.Explicit, ("d", None), (64, 512)),
    ],
    ids=str,
)
def test_blocks_stay_on_their_device(axis: Any, spec: Any, shape: tuple[int, int]):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(axis,))
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    optimizer = low_memory(optax.adamw(0.02))
    with jax.set_mesh(mesh):
        params = jax.device_put(values, sharding)
        state = optimizer.init(params)
        for part in (*packed_arrays(state), *state.packing.values()):
            assert part.sharding.is_equivalent_to(sharding, 2), part.sharding
        step = jax.jit(optimizer.update)
        text = step.lower(params, state, params).compile().as_text()
        assert not re.findall("all-reduce|all-gather|all-to-all|collective-permute", text)
        updates, new = jax.block_until_ready(step(params, state, params))
    size = params.size // jax.tree.leaves(state.packing)[0].size
    alone = low_memory(optax.adamw(0.02), block_size=size)
    one = jnp.asarray(values)
    expected, expected_state = jax.jit(alone.update)(one, alone.init(one), one)
    assert_trees_close(jax.device_get(updates), jax.device_get(expected), rtol=1e-6)
    for a, b in zip(packed_arrays(new), packed_arrays(expected_state), strict=True):
        np.testing.assert_array_equal(jax.device_get(a), b)


@pytest.mark.four_devices
@pytest.mark.parametrize("spec", [PartitionSpec("d"), PartitionSpec()], ids=["split", "whole"])
def test_inside_shard_map_a_scan_keeps_its_types(spec: PartitionSpec):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    optimizer = low_memory(nag_optax.nag(0.1))

    def train(params: jax.Array) -> jax.Array:
        step = step_function(optimizer, sphere)
        carry = params, optimizer.init(params)
        return jax.lax.scan(lambda carry, _: (step(*carry), None), carry, length=3)[0][0]

    whole = jnp.linspace(-1.0, 1.0, 256 * 128).reshape(256, 128)
    found = jax.jit(jax.shard_map(train, mesh=mesh, in_specs=spec, out_specs=spec))(whole)
    parts = jnp.split(whole, 4 if spec else 1)
    assert_trees_close(jax.device_get(found), np.concatenate([jax.jit(train)(p) for p in parts]), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"dtype": jnp.float32}, ValueError, "dtype must be int8 or bfloat16; got float32"),
        ({"dtype": "bf16"}, ValueError, "dtype must be int8 or bfloat16; got 'bf16'"),
        ({"block_size": 0}, ValueError, r"block_size must be an integer in \[1, 65537\); got 0"),
        ({"min_size": 0.5}, TypeError, "min_size must be an integer"),
        ({"seed": -1}, ValueError, r"seed must be an integer in \[0, 4294967296\); got -1"),
        ({"block_size": jnp.array(128)}, TypeError, "^block_size must be .* static_args"),
        ({"min_size": jnp.array(128)}, TypeError, "^min_size must be .* static_args"),
    ],
)
def test_errors(options: dict[str, Any], error: Any, says: str):
    with pytest.raises(error, match=says):
        low_memory(optax.adam(0.1), **options)
