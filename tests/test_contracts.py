"""What every optimizer of the package promises, checked over the one list in `cases.py`."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.cases import CASES, Case, over_cases
from tests.helpers import (
    arrays_like,
    assert_trees_close,
    assert_trees_equal,
    dtypes,
    exhaustive,
    sphere,
    step_function,
    train,
)


def tree(dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    """A matrix, a vector and a scalar, of three different shapes."""
    rng = np.random.default_rng(0)
    shapes = {"matrix": (3, 2), "vector": (5,), "scalar": ()}
    return {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def parabola(params: dict[str, jax.Array]) -> jax.Array:
    return sphere(jax.tree.map(lambda p: p - 2.0, params))


def rosenbrock(params: jax.Array) -> jax.Array:
    return jnp.square(1.0 - params[0]) + 100.0 * jnp.square(params[1] - jnp.square(params[0]))


def copied(tree: Any) -> Any:
    """New buffers, to be given away."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


@over_cases
def test_converges_under_scan(case: Case):
    params, _ = train(case.make(), {**tree(), "far": jnp.array([-1.0, 10.0, 1.0])}, parabola, 600)
    assert_trees_close(params, jax.tree.map(lambda p: jnp.full_like(p, 2.0), params), 0, 1e-3)


@over_cases
def test_converges_on_rosenbrock(case: Case):
    params, _ = train(case.make(learning_rate=1e-3), jnp.zeros(2), rosenbrock, 20_000)
    np.testing.assert_allclose(params, [1.0, 1.0], atol=1e-2)


@over_cases
def test_unknown_arguments_are_ignored(case: Case):
    optimizer, params = case.make(), tree()
    state = optimizer.init(params)

    def program(**extra: Any) -> str:
        update = jax.make_jaxpr(lambda s: optimizer.update(params, s, params, value=jnp.array(1.0), **extra))
        return str(update(state))

    assert program(batch=None, unknown="text") == program()


@over_cases
def test_compiles_once_over_hyperparameters(case: Case):
    traces = []

    @jax.jit
    def run(numbers: dict[str, jax.Array], params: Any) -> Any:
        traces.append(None)
        optimizer = case.make(**numbers)
        return step_function(optimizer, sphere)(params, optimizer.init(params))[0]

    numbers = {name: jnp.asarray(value) for name, value in case.numbers.items()}
    first = run(numbers, tree())
    second = run({name: value / 2 for name, value in numbers.items()}, tree())
    assert len(traces) == 1
    # One case has schedules alone, and no number to change.
    if "learning_rate" in numbers:
        assert not np.array_equal(first["vector"], second["vector"])


@over_cases
def test_map_params_finds_the_buffers(case: Case):
    optimizer, params = case.make(), tree()
    state = optimizer.init(params)
    mapped = optax.tree.map_params(optimizer, lambda leaf: leaf + 1.0, state)
    changed = [
        not np.array_equal(before, after)
        for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(mapped), strict=True)
    ]
    assert sum(changed) == case.buffers * len(params)
    assert jax.tree.structure(mapped) == jax.tree.structure(state)


@over_cases
def test_injected_hyperparameters_give_the_same_result(case: Case):
    inject = optax.inject_hyperparams(case.factory, static_args=case.static)
    injected, _ = train(inject(**case.hyperparameters), tree(), sphere, 15)
    direct, _ = train(case.make(), tree(), sphere, 15)
    assert_trees_close(injected, direct, rtol=2e-6, atol=1e-7 + case.rounding)


@over_cases
def test_structure_depends_on_no_number(case: Case):
    """Injected, a number is an array, and no decay is a decay of 0."""
    # A schedule has a counter, and a momentum of Python's 0 saves a buffer: neither is a number that changes.
    fixed = [k for k, v in case.hyperparameters.items() if callable(v) or (k == "momentum" and v == 0)]
    injected = optax.inject_hyperparams(case.factory, static_args=fixed)(**case.hyperparameters)
    expected = jax.tree.structure(injected.init(tree()).inner_state)
    for decay in (value for name, value in case.numbers.items() if name == "weight_decay"):
        assert jax.tree.structure(case.make(weight_decay=0.0 * decay).init(tree())) == expected
    assert jax.tree.structure(case.make().init(tree())) == expected


@over_cases
def test_dtypes_in_double_precision(case: Case, x64: None):
    for dtype in (jnp.float32, jnp.float64):
        optimizer, params = case.make(), tree(dtype)
        # Eager and abstract: jit adds nothing to the dtypes.
        updates, state = jax.eval_shape(
            lambda p: optimizer.update(p, optimizer.init(p), p, value=jnp.array(1.0)),  # noqa: B023
            params,
        )
        assert dtypes(updates) == dtypes(params)
        assert dtypes(state) == dtypes(optimizer.init(params))


@over_cases
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32], ids=["bf16", "f16", "f32"])
def test_state_and_update_are_stable_under_cond(case: Case, dtype: Any):
    optimizer, params = case.make(), tree(dtype)
    # An objective in yet another dtype must not leak into the state.
    value = jnp.array(1.0, jnp.float16 if dtype != jnp.float16 else jnp.bfloat16)

    @jax.jit
    def step(flag: jax.Array, state: Any) -> Any:
        return jax.lax.cond(
            flag,
            lambda: optimizer.update(params, state, params, value=value),
            lambda: (params, state),
        )

    state = optimizer.init(params)
    # Abstract, which is where a type changes; run in one of the dtypes, for what a device does.
    updates, new = jax.eval_shape(step, jnp.array(True), state)
    assert dtypes(updates) == dtypes(params)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == jax.tree.map(
        lambda a: (a.shape, a.dtype), state
    )
    for flag in (True, False, True) if dtype == jnp.bfloat16 else ():
        updates, new = step(jnp.array(flag), state)
        assert dtypes(updates) == dtypes(params)
        assert jax.tree.map(lambda a: (a.shape, a.dtype, a.sharding), new) == jax.tree.map(
            lambda a: (a.shape, a.dtype, a.sharding), state
        )
        state = new


@over_cases
def test_gradient_accumulation(case: Case, standard_promotion: None):
    inner, params = case.make(), tree()
    optimizer = optax.MultiSteps(inner, every_k_schedule=4)
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    updates = None
    for k in range(4):
        grads = jax.tree.map(lambda p: p * (k + 1.0), params)  # noqa: B023
        updates, state = update(grads, state, params, value=jnp.array(1.0))
        if k < 3:
            assert_trees_equal(updates, jax.tree.map(jnp.zeros_like, params))
    mean = jax.tree.map(lambda p: p * 2.5, params)
    expected, _ = jax.jit(inner.update)(mean, inner.init(params), params, value=jnp.array(1.0))
    assert_trees_close(updates, expected, rtol=1e-6, atol=case.rounding)


@over_cases
def test_constant_schedule_equals_constant(case: Case):
    constant, _ = train(case.make(learning_rate=0.05), tree(), sphere, 20)
    schedule = optax.constant_schedule(0.05)
    scheduled, _ = train(case.make(learning_rate=schedule), tree(), sphere, 20)
    assert_trees_close(scheduled, constant, rtol=2e-6, atol=1e-7 + case.rounding)


@over_cases
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float8_e4m3fn], ids=["f32", "bf16", "f8"])
def test_explicit_state_dtype(case: Case, dtype: Any):
    optimizer, params = case.make(accumulator_dtype=dtype), tree(jnp.bfloat16)
    state = optimizer.init(params)
    _, new = jax.eval_shape(step_function(optimizer, sphere), params, state)
    for buffers in (arrays_like(state, params), arrays_like(new, params)):
        assert [b.dtype for b in buffers] == [dtype] * (2 * case.buffers)


@over_cases
def test_buffers_take_the_dtype_of_the_parameters(case: Case):
    params = {"half": jnp.ones((3, 2), jnp.bfloat16), "single": jnp.ones(5)}
    state = case.make(accumulator_dtype=None).init(params)
    assert [b.dtype for b in arrays_like(state, params)] == [jnp.bfloat16, jnp.float32] * case.buffers


@over_cases
def test_init_from_shapes_alone(case: Case):
    optimizer, params = case.make(), tree(jnp.bfloat16)
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    expected = optimizer.init(params)
    assert_trees_equal(optimizer.init(shapes), expected)
    abstract = jax.eval_shape(optimizer.init, shapes)
    assert dtypes(abstract) == dtypes(expected)


@over_cases
def test_state_is_a_fixed_tree_of_arrays(case: Case):
    optimizer, params = case.make(), tree()
    state = optimizer.init(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert len(arrays_like(state, params)) == 2 * case.buffers
    _, new = optimizer.update(params, state, params, value=jnp.array(1.0))
    for other in (new, optimizer.init(params), jax.jit(optimizer.init)(params)):
        assert jax.tree.structure(other) == jax.tree.structure(state)
        assert dtypes(other) == dtypes(state)


@over_cases
def test_update_is_pure(case: Case):
    optimizer, params = case.make(), tree()
    _, state = optimizer.update(params, optimizer.init(params), params, value=jnp.array(1.0))
    before = copied((params, state))
    first = optimizer.update(params, state, params, value=jnp.array(1.0))
    second = optimizer.update(params, state, params, value=jnp.array(1.0))
    assert_trees_equal(first, second)
    assert_trees_equal((params, state), before)
    # The gradient was the parameters themselves: donated together they would be one buffer twice.
    arrays = jax.tree.leaves(params) + arrays_like(first[1], params)
    assert len({array.unsafe_buffer_pointer() for array in arrays}) == len(arrays)


@over_cases
def test_a_donated_step_compiles_once_and_reuses_its_buffers(case: Case):
    optimizer, traces = case.make(), []

    def traced(params: Any, state: Any) -> Any:
        traces.append(None)
        return step_function(optimizer, sphere)(params, state)

    step = jax.jit(traced, donate_argnums=(0, 1))
    params = tree()
    state = optimizer.init(params)
    for _ in range(3):
        # A scalar of the state that is written anew without being read is not given away.
        given = jax.tree.leaves(params) + arrays_like(state, params)
        params, state = step(params, state)
        assert all(leaf.is_deleted() for leaf in given)
    assert len(traces) == 1
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, state)))


def compiled_update(optimizer: optax.GradientTransformation, size: int) -> Any:
    """A donated step on one leaf, with the gradient given, so that the program is the update alone."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(grads: jax.Array, params: jax.Array, state: Any) -> Any:
        updates, state = optimizer.update(grads, state, params, value=jnp.zeros([]))
        return optax.apply_updates(params, updates), state

    params = jnp.zeros(size)
    step = jax.jit(step, donate_argnums=(1, 2))
    return step.lower(params, params, optimizer.init(params)).compile()


def copies_of_a_leaf(optimizer: optax.GradientTransformation) -> int:
    size = 4096
    text = compiled_update(optimizer, size).as_text()
    assert f"f32[{size}]" in text
    return len(re.findall(rf"= f32\[{size}\]\S* copy(?:-start)?\(", text))


@over_cases
def test_compiled_update_copies_no_more_than_promised(case: Case):
    assert copies_of_a_leaf(case.make()) <= case.copies


@pytest.mark.parametrize(
    ("name", "halves"),
    [
        ("nag", {"momentum": 0.5}),
        ("nag-gradients", {"momentum": 0.5}),
        ("nadam", {"b2": 0.5}),
        ("adan", {"b1": 0.5}),
    ],
)
def test_factors_that_are_powers_of_two_cost_no_copy(name: str, halves: dict[str, float]):
    """XLA, for which such a product is exact, may rewrite a buffer's next value with them."""
    (case,) = (case for case in CASES if case.name == name)
    assert copies_of_a_leaf(case.make(**halves)) <= case.copies


@pytest.mark.parametrize("case", [c for c in CASES if c.lean], ids=lambda case: case.name)
def test_update_moves_no_more_bytes_than_optax(case: Case):
    def bytes_accessed(optimizer: optax.GradientTransformation) -> float:
        return compiled_update(optimizer, 65_536).cost_analysis()["bytes accessed"]

    # A counter or a factor of the state is a few bytes; one pass over the leaf is 262 144.
    scalars = 128
    optimizer = optax.sgd(0.05, 0.9 if case.buffers else None, nesterov=True)
    assert bytes_accessed(case.make()) <= bytes_accessed(optimizer) + scalars


@over_cases
def test_wide_gradients_of_narrow_parameters(case: Case):
    params = tree(jnp.bfloat16)
    optimizer = case.make(accumulator_dtype=None)
    state = optimizer.init(params)

    def step(state: Any, _: None) -> Any:
        grads = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        updates, state = optimizer.update(grads, state, params, value=jnp.array(1.0))
        return state, updates

    # A scan fails where the state changes its dtype.
    state, updates = jax.jit(lambda state: jax.lax.scan(step, state, length=3))(state)
    assert [b.dtype for b in arrays_like(state, params)] == [jnp.bfloat16] * (2 * case.buffers)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}


@over_cases
@pytest.mark.parametrize("dtype", [jnp.bfloat16, exhaustive(jnp.float16)], ids=["bf16", "f16"])
def test_low_precision_descends(case: Case, dtype: Any):
    start = tree(dtype)
    params, state = train(case.make(accumulator_dtype=jnp.float32), start, sphere, 100)
    assert dtypes(params) == dtypes(start)
    assert sphere(params) < 1e-3 * sphere(start)
    assert all(b.dtype == jnp.float32 for b in arrays_like(state, start))


@over_cases
def test_none_gradient_keeps_its_buffer(case: Case):
    optimizer, params = case.make(), tree()
    _, state = optimizer.update(params, optimizer.init(params), params, value=jnp.array(1.0))
    grads = {**params, "vector": None}
    updates, new = jax.jit(optimizer.update)(grads, state, params, value=jnp.array(1.0))
    assert updates["vector"] is None
    before, after = ([b for b in arrays_like(s, params) if b.ndim == 1] for s in (state, new))
    assert len(before) == case.buffers
    assert_trees_equal(after, before)
    # The others take no notice.
    full, _ = optimizer.update(params, state, params, value=jnp.array(1.0))
    if not case.all_reduces:
        assert_trees_close(updates["matrix"], full["matrix"], rtol=1e-6, atol=case.rounding)


@over_cases
def test_none_parameter_has_no_state(case: Case):
    optimizer = case.make()
    with_none, without = {"a": jnp.ones(5), "b": None}, {"a": jnp.ones(5)}
    step = step_function(optimizer, sphere)
    params, state = step(*step(with_none, optimizer.init(with_none)))
    expected, expected_state = step(*step(without, optimizer.init(without)))
    assert params["b"] is None
    assert_trees_equal(params["a"], expected["a"])
    assert_trees_equal(jax.tree.leaves(state), jax.tree.leaves(expected_state))


@over_cases
@pytest.mark.parametrize(
    "params",
    [
        exhaustive({}),
        {"a": {}, "b": ()},
        exhaustive(jnp.zeros((0, 3))),
        {"empty": jnp.zeros((2, 0)), "full": jnp.ones(2)},
    ],
    ids=["tree", "subtrees", "array", "array-among-others"],
)
def test_empty_trees_and_arrays(case: Case, params: Any):
    trained, _ = train(case.make(), params, sphere, 3)
    assert jax.tree.map(jnp.shape, trained) == jax.tree.map(jnp.shape, params)
    assert all(bool(jnp.all(jnp.isfinite(p))) for p in jax.tree.leaves(trained))
    assert all(bool(jnp.all(p < 1.0)) for p in jax.tree.leaves(trained))


@over_cases
def test_scalar_equals_vector_of_one(case: Case):
    vector, _ = train(case.make(), jnp.ones(1), sphere, 10)
    scalar, _ = train(case.make(), jnp.ones([]), sphere, 10)
    # Neither is a matrix, so that a mask takes both or none.
    np.testing.assert_allclose(scalar, vector[0], rtol=1e-6, atol=1e-7)
    assert scalar < 1.0


@over_cases
def test_complex_parameter_is_two_real_ones(case: Case):
    real = {"re": jnp.array([1.0, -0.3]), "im": jnp.array([0.5, 2.0])}
    optimizer = case.make()

    def step(params: Any, state: Any) -> Any:
        # JAX's gradient of a real function of z is conj(dz); descent wants its conjugate.
        value, grads = jax.value_and_grad(sphere)(params)
        grads = jax.tree.map(jnp.conj, grads)
        updates, state = optimizer.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    def run(params: Any) -> Any:
        state = optimizer.init(params)
        for _ in range(12):
            params, state = jax.jit(step)(params, state)
        return params, state

    (z, state), (pair, _) = run(jax.lax.complex(real["re"], real["im"])), run(real)
    assert z.dtype == jnp.complex64
    assert [b.dtype for b in arrays_like(state, z)] == [jnp.complex64] * case.buffers
    np.testing.assert_allclose(z, jax.lax.complex(pair["re"], pair["im"]), rtol=1e-5)


@over_cases
def test_vmap_over_hyperparameters(case: Case):
    def run(numbers: dict[str, Any]) -> Any:
        return train(case.make(**numbers), tree(), sphere, 4)[0]

    factors = jnp.array([0.5, 0.9, 1.0])
    numbers = {name: factors * value for name, value in case.numbers.items()}
    if not numbers:
        numbers = {"learning_rate": factors * 0.05}
    lanes = jax.jit(jax.vmap(run))(numbers)
    for lane in range(3):
        alone = jax.jit(run)({name: values[lane] for name, values in numbers.items()})
        mapped = jax.tree.map(lambda p: p[lane], lanes)  # noqa: B023
        assert_trees_close(mapped, alone, rtol=1e-5, atol=1e-6 + case.rounding)


@over_cases
def test_gradient_through_the_update(case: Case, x64: None):
    start = jnp.array([1.0, -2.0])

    @jax.jit
    @jax.value_and_grad
    def loss_after_training(learning_rate: jax.Array) -> jax.Array:
        optimizer = case.make(learning_rate=learning_rate, accumulator_dtype=None)
        step = step_function(optimizer, sphere)
        carry = start, optimizer.init(start)
        return sphere(jax.lax.scan(lambda carry, _: (step(*carry), None), carry, length=4)[0][0])

    rate, h = jnp.asarray(0.05), 1e-6
    slope = (loss_after_training(rate + h)[0] - loss_after_training(rate - h)[0]) / (2 * h)
    np.testing.assert_allclose(loss_after_training(rate)[1], slope, rtol=1e-6)
    assert abs(slope) > 1e-3


def over_four_devices() -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()[:4]), ("data",)), PartitionSpec("data"))


@pytest.mark.four_devices
@over_cases
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16], ids=["own", "bf16"])
def test_state_takes_the_sharding_of_its_parameter(case: Case, dtype: Any):
    sharding = over_four_devices()
    params = {"a": jax.device_put(jnp.ones((8, 2)), sharding), "b": jax.device_put(jnp.ones(4), sharding)}
    optimizer = case.make(accumulator_dtype=dtype)
    for init in (optimizer.init, jax.jit(optimizer.init)):
        buffers = arrays_like(init(params), params)
        assert len(buffers) == 2 * case.buffers
        assert all(b.sharding.is_equivalent_to(sharding, b.ndim) for b in buffers)


@pytest.mark.four_devices
@over_cases
def test_sharded_training_equals_one_device(case: Case):
    sharding = over_four_devices()
    params = {"a": jnp.linspace(-1.0, 1.0, 16).reshape(8, 2), "b": jnp.linspace(0.5, 2.0, 4)}
    optimizer = case.make()
    step = jax.jit(step_function(optimizer, sphere))

    def run(params: Any) -> Any:
        state = optimizer.init(params)
        for _ in range(4):
            params, state = step(params, state)
            # Queued steps of four virtual devices can deadlock on fewer cores.
            jax.block_until_ready((params, state))
        return params, state

    sharded, state = run(jax.device_put(params, sharding))
    alone, _ = run(params)
    # The two programs round differently in each of four steps, at first by the size of the start.
    atol = 4 * float(jnp.finfo(jnp.float32).eps) * 2.0
    assert_trees_close(sharded, alone, rtol=1e-6, atol=max(atol, case.rounding))
    for leaf in jax.tree.leaves(sharded) + arrays_like(state, params):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


@pytest.mark.four_devices
@over_cases
def test_update_adds_no_collective(case: Case):
    sharding = over_four_devices()
    # One leaf: whether XLA joins the scalars of several leaves in one collective is its own affair.
    params = jax.device_put(jnp.ones((8, 2)), sharding)
    optimizer = case.make()

    @jax.jit
    def update(params: Any, state: Any) -> Any:
        return optimizer.update(params, state, params, value=jnp.zeros([]))

    text = update.lower(params, optimizer.init(params)).compile().as_text()
    names = "all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
    collectives = re.findall(rf"= (.*?) ({names})(?:-start)?\(", text)
    scalars = [kind for shape, kind in collectives if shape.startswith("f32[]")]
    assert scalars == ["all-reduce"] * case.all_reduces
    assert len(collectives) - len(scalars) == case.exchanges


@over_cases
def test_counters_saturate(case: Case):
    optimizer, params = case.make(), tree()
    last = jnp.iinfo(jnp.int32).max

    def at_the_end(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.integer):
            return leaf
        assert leaf.dtype == jnp.int32
        return jnp.full_like(leaf, last)

    state = jax.tree.map(at_the_end, optimizer.init(params))
    # A falling objective, so that no restart sets a counter back.
    state = _update_state(optimizer, params, state, value=2.0)
    updates, state = optimizer.update(params, state, params, value=jnp.array(1.0))
    counters = [s for s in jax.tree.leaves(state) if jnp.issubdtype(s.dtype, jnp.integer)]
    assert all(int(counter) == last for counter in counters)
    assert all(bool(jnp.all(jnp.isfinite(u))) for u in jax.tree.leaves(updates))


def _update_state(optimizer: Any, params: Any, state: Any, value: float) -> Any:
    return optimizer.update(params, state, params, value=jnp.array(value))[1]


@over_cases
def test_masked_leaves_have_no_state(case: Case):
    params = tree()
    optimizer = optax.masked(case.make(), {"matrix": True, "vector": False, "scalar": False})
    state = optimizer.init(params)
    assert [b.shape for b in arrays_like(state, params)] == [(3, 2)] * case.buffers
    updates, _ = jax.jit(optimizer.update)(params, state, params, value=jnp.array(1.0))
    assert_trees_equal(updates["vector"], params["vector"])
    assert not np.array_equal(updates["matrix"], params["matrix"])


def test_names_are_unique():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_strict_promotion():
    with pytest.raises(Exception, match="promotion"):
        jnp.add(jnp.ones(2), jnp.ones(2, jnp.bfloat16))
    with pytest.raises(ValueError, match="rank"):
        jnp.add(jnp.ones((2, 2)), jnp.ones(2))
