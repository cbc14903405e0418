"""The idea of the package: the kernel, its momentum rules, restarts, and the iterate to evaluate."""

from nag_optax.acceleration import momentum as momentum
