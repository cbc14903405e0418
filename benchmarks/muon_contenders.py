"""Muon as three packages have it, and what a step of it costs each of several devices.

    python -m benchmarks.muon_contenders TREE      (one process for itself: it simulates four devices)

All take five Newton–Schulz steps with Nesterov momentum, in the dtype of the parameters; torch.optim.Muon
takes them in bfloat16 whatever the parameters are, and so is compared in bfloat16 alone.
"""

import json
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import nag_optax
from benchmarks.timing import Repeated
from benchmarks.trees import MATRICES, Shapes

LEARNING_RATE, MOMENTUM, STEPS = 1e-3, 0.95, 5
DEVICES = (1, 4)
OURS, OPTAX, TORCH = "nag_optax.muon", "optax.contrib.muon", "torch.optim.Muon"

_EXCHANGE = re.compile(
    r" (?:all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter)"
    r"(?:-start)?\("
)


def optimizers(dtype: jnp.dtype, steps: int = STEPS) -> dict[str, optax.GradientTransformation]:
    ours = nag_optax.muon(LEARNING_RATE, MOMENTUM, fallback=optax.identity(), steps=steps, dtype=dtype)
    return {OURS: ours, OPTAX: optax.contrib.muon(LEARNING_RATE, beta=MOMENTUM, ns_steps=steps)}


def gradients(shapes: Shapes, dtype: jnp.dtype) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {
        name: jax.random.normal(key, shape, dtype)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def torch_step(shapes: Shapes, device: str, threads: int) -> dict[str, Repeated]:
    """torch.optim.Muon, on bfloat16 parameters; none where torch has none."""
    import torch  # pyright: ignore[reportMissingImports] (extra "bench")

    try:
        from torch.optim import Muon  # pyright: ignore[reportMissingImports]
    except ImportError:  # before 2.9
        return {}
    torch.set_num_threads(threads)
    params = [
        torch.ones(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
        for shape in shapes.values()
    ]
    for p in params:
        p.grad = torch.randn_like(p, requires_grad=False)
    optimizer = Muon(params, LEARNING_RATE, weight_decay=0.0, momentum=MOMENTUM, ns_steps=STEPS)

    def run(calls: int) -> None:
        for _ in range(calls):
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return {TORCH: run}


def costs(shapes: Shapes) -> dict[str, dict[str, dict[str, float]]]:
    """By method and number of devices: flops, bytes and exchanges a device of a step with one iteration.

    One iteration, because XLA counts a loop once, however often it runs. Each array is split over the
    devices along its rows.
    """
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method, optimizer in optimizers(jnp.dtype(jnp.float32), steps=1).items():
        found[method] = {}
        for devices in DEVICES:
            mesh = jax.make_mesh(
                (devices,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
            )
            program = _compiled(optimizer, params, mesh)
            analysis = program.cost_analysis()
            found[method][str(devices)] = {
                "flops": analysis["flops"],
                "bytes": analysis["bytes accessed"],
                "exchanges": len(_EXCHANGE.findall(program.as_text())),
            }
    return found


def _compiled(optimizer: optax.GradientTransformation, params: Any, mesh: Mesh) -> Any:
    """The step for these shapes; the arrays of the state are split as the parameters."""

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def split(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec("d") if leaf.ndim == 2 else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    params = jax.tree.map(split, params)
    state = jax.tree.map(split, jax.eval_shape(optimizer.init, params))
    return jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()


if __name__ == "__main__":
    print(json.dumps(costs(MATRICES[sys.argv[1]]())))
