"""The steps that are compared: an optimizer's update and its application to the parameters.

Gradients are given and are zero: the parameters stay where they are however long the measurement
runs, and the work is the same.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import optax

import nag_optax
from benchmarks.program import Program, compiled
from benchmarks.timing import Repeated
from benchmarks.trees import Shapes

LEARNING_RATE, MOMENTUM = 0.1, 0.9

OPTIMIZERS: Mapping[str, optax.GradientTransformation] = {
    "nag": nag_optax.nag(LEARNING_RATE, MOMENTUM),
    "optax.sgd": optax.sgd(LEARNING_RATE, MOMENTUM, nesterov=True),
}


# With a constant rate, its product with the constant gradients would be computed before the loop.
_DECAYING = optax.linear_schedule(LEARNING_RATE, 0.0, 100_000)


LOOPED: Mapping[str, optax.GradientTransformation] = {
    "nag, compiled loop": nag_optax.nag(_DECAYING, MOMENTUM),
    "optax.sgd, compiled loop": optax.sgd(_DECAYING, MOMENTUM, nesterov=True),
}
LOOP_STEPS = 50


def gradients(shapes: Shapes) -> dict[str, jax.Array]:
    return {name: jnp.full(shape, 0.0) for name, shape in shapes.items()}


def jax_step(
    optimizer: optax.GradientTransformation, grads: dict[str, jax.Array]
) -> tuple[Repeated, Program]:
    """update and apply_updates in one jitted function, parameters and state donated."""

    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.ones_like, grads)
    state = optimizer.init(params)
    sizes = {prod(leaf.shape) for leaf in grads.values()}
    program = compiled(jax.jit(step, donate_argnums=(0, 1)), params, state, grads, sizes=sizes)

    def run(calls: int) -> None:
        nonlocal params, state
        for _ in range(calls):
            params, state = program.run(params, state, grads)
        jax.block_until_ready((params, state))

    return run, program


def jax_loop(optimizer: optax.GradientTransformation, grads: dict[str, jax.Array]) -> Repeated:
    """`LOOP_STEPS` steps in one compiled loop: a step without the call from Python."""

    def steps(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        def step(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            params, state = carry
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, LOOP_STEPS, step, (params, state))

    params = jax.tree.map(jnp.ones_like, grads)
    state = optimizer.init(params)
    program = jax.jit(steps, donate_argnums=(0, 1)).lower(params, state, grads).compile()

    def run(calls: int) -> None:
        nonlocal params, state
        for _ in range(calls):
            params, state = program(params, state, grads)
        jax.block_until_ready((params, state))

    return run


def torch_device() -> str | None:
    """The device on which torch can be compared with JAX; None if there is none, or no torch."""
    try:
        import torch  # pyright: ignore[reportMissingImports] (extra "bench")
    except ImportError:
        return None
    if jax.default_backend() == "gpu":
        return "cuda" if torch.cuda.is_available() else None
    return "cpu" if jax.default_backend() == "cpu" else None


def torch_steps(shapes: Shapes, device: str, threads: int) -> dict[str, Repeated]:
    """torch.optim.SGD(nesterov=True), fused and foreach."""
    import torch  # pyright: ignore[reportMissingImports] (extra "bench")

    torch.set_num_threads(threads)

    def step(**implementation: bool) -> Repeated:
        params = [torch.ones(shape, device=device, requires_grad=True) for shape in shapes.values()]
        for p in params:
            # Not torch.zeros: the system lends it one page of zeros, which is always in the cache.
            p.grad = torch.full_like(p, 0.0, requires_grad=False)
        optimizer = torch.optim.SGD(params, LEARNING_RATE, MOMENTUM, nesterov=True, **implementation)

        def run(calls: int) -> None:
            for _ in range(calls):
                optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    return {"torch fused": step(fused=True), "torch foreach": step(foreach=True)}
