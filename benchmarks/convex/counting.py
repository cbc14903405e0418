"""Counts evaluations as they happen, whatever library calls them."""

from collections.abc import Callable

import jax


class Counted:
    """f, which counts how often it ran for its value alone and how often for its gradient."""

    def __init__(self, fun: Callable[[jax.Array], jax.Array]):
        self.values = self.gradients = 0

        @jax.custom_vjp
        def counted(x: jax.Array) -> jax.Array:
            jax.debug.callback(self._value)
            return fun(x)

        def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            jax.debug.callback(self._gradient)
            return jax.value_and_grad(fun)(x)

        counted.defvjp(forward, lambda gradient, cotangent: (cotangent * gradient,))
        self.fun = counted

    def _value(self) -> None:
        self.values += 1

    def _gradient(self) -> None:
        self.gradients += 1
