"""Batches of matrices: how many products there are, and who computes them on a mesh."""

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
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from nag_optax import Matrix, muon, orthogonalize
from tests.helpers import assert_trees_close

P = PartitionSpec
# Five steps in float32 that magnify a rounding up to 3.44⁵ times; the learning rate is 0.1.
ROUNDING = 0.1 * 4 * 3.44**5 * 2.0**-24
COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter)(?:-start)?\("
)


def kernels(count: int, shape: tuple[int, int] = (16, 8)) -> dict[str, jax.Array]:
    rng = np.random.default_rng(count)
    return {f"layer_{i}": jnp.asarray(rng.standard_normal(shape), jnp.float32) for i in range(count)}


def step(params: Any, state: Any, grads: Any) -> Any:
    updates, state = OPTIMIZER.update(grads, state, params)
    return optax.apply_updates(params, updates), state


OPTIMIZER = muon(0.1, fallback=optax.identity())


def on(mesh: Any, tree: Any, spec: PartitionSpec) -> Any:
    return jax.device_put(tree, NamedSharding(mesh, spec))


def in_loops(hlo: str) -> str:
    """The text of the computations that a loop runs, directly or through others."""
    parts = {
        head.split()[0].lstrip("%"): body
        for head, _, body in (part.partition("{\n") for part in hlo.split("\n\n"))
        if head
    }
    names = re.findall(r"body=%?([\w.-]+)", hlo)
    assert names
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name not in seen:
            seen.add(name)
            names += re.findall(r"(?:calls|to_apply|body)=%?([\w.-]+)", parts[name])
    return "\n".join(parts[name] for name in seen)


@pytest.mark.four_devices
class TestMesh:
    @pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
    @pytest.mark.parametrize(
        ("spec", "there"), [(P(), []), (P("d"), ["all-to-all"]), (P(None, "d"), ["all-to-all"])], ids=str
    )
    def test_a_quarter_each_and_one_exchange(self, kind: AxisType, spec: PartitionSpec, there: list[str]):
        mesh = jax.make_mesh((4,), ("d",), axis_types=(kind,))
        params = kernels(8, (64, 32))
        alone: Any = jax.jit(step).lower(params, OPTIMIZER.init(params), params).compile()
        expected, _ = alone(params, OPTIMIZER.init(params), params)
        split = on(mesh, params, spec)
        state = OPTIMIZER.init(split)
        program: Any = jax.jit(step).lower(split, state, split).compile()
        text = program.as_text()
        # Replicated parameters need nothing brought, and take back what all others have done.
        assert COLLECTIVE.findall(text) == (2 * there or ["all-gather"])
        assert not COLLECTIVE.findall(in_loops(text))
        # The momentum and the update itself of replicated parameters are everyone's work.
        assert program.cost_analysis()["flops"] < 0.3 * alone.cost_analysis()["flops"]
        found, _ = program(split, state, split)
        assert_trees_close(found, expected, 0, ROUNDING)
        for name, p in found.items():
            assert p.sharding.is_equivalent_to(split[name].sharding, 2)

    @pytest.mark.parametrize("count", [1, 3, 5])
    def test_what_does_not_divide(self, count: int):
        """On a mesh of two axes; the parameters use one."""
        mesh = jax.make_mesh((2, 2), ("d", "e"), axis_types=(AxisType.Auto,) * 2)
        params = kernels(count)
        run = jax.jit(lambda p: step(p, OPTIMIZER.init(p), p)[0])
        assert_trees_close(run(on(mesh, params, P(None, "e"))), run(params), 0, ROUNDING)

    def test_traced_numbers(self):
        """The steps, the coefficients and eps may be injected."""
        mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))

        @jax.jit
        def run(params: Any, steps: Any, coefficients: Any, eps: Any) -> Any:
            return orthogonalize(steps, coefficients=coefficients, eps=eps).update(params, optax.EmptyState())

        numbers = jnp.asarray(5), jnp.array([3.4445, -4.7750, 2.0315]), jnp.asarray(1e-7)
        params = kernels(3)
        found, expected = run(on(mesh, params, P("d")), *numbers)[0], run(params, *numbers)[0]
        assert_trees_close(found, expected, 0, 10 * ROUNDING)

    def test_inside_shard_map_each_device_has_its_own(self):
        mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
        params = kernels(2)

        def local(params: Any) -> Any:
            return orthogonalize().update(params, optax.EmptyState())[0]

        run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("d"), out_specs=P("d")))
        split = on(mesh, params, P("d"))
        assert not COLLECTIVE.findall(run.lower(split).compile().as_text())
        quarters = jax.tree.map(lambda p: jnp.concatenate([local(q) for q in jnp.split(p, 4)]), params)
        assert_trees_close(run(split), quarters, 0, 10 * ROUNDING)


def program_for(platform: str, params: Any) -> str:
    """StableHLO of an orthogonalisation, on whatever machine."""
    optimizer = orthogonalize(matrices=Matrix(-2, -1))
    traced = jax.jit(lambda p: optimizer.update(p, optax.EmptyState())[0]).trace(params)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_one_batch_for_all_of_one_shape():
    """Another shape or dtype is another batch."""
    params = [kernels(2), kernels(2, (8, 16)), jnp.ones((3, 4, 4)), jnp.ones((4, 4))]
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    batches = re.findall(r"stablehlo.concatenate .* -> tensor<(.*)>", program_for("cuda", (params, narrow)))
    assert sorted(batches) == [
        f"{shape}x{dtype}" for shape in ("2x16x8", "2x8x16", "4x4x4") for dtype in ("bf16", "f32")
    ]


def test_batched_elsewhere_than_on_a_cpu():
    params = kernels(3)
    batched = [program_for(platform, params).count("batching_dims") for platform in ("cpu", "cuda")]
    assert batched == [0, 3]


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_the_program_does_not_grow_with_the_matrices(platform: str):
    """With products of its own for each, 64 heads took a minute to compile."""
    few, many = (program_for(platform, jnp.ones((k, 8, 8))).count("stablehlo.dot_general") for k in (16, 160))
    assert few == many
