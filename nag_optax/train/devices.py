"""The devices of a run."""

from typing import Any

import jax

from nag_optax.train.errors import InputError

Device = Any  # jax.Device is no type to a static checker


def find_devices(kind: str, count: int) -> list[Device]:
    """`count` local devices of that kind; "auto" takes JAX's default.

    Raises:
        InputError: if there is no such device, or fewer than `count`.
    """
    try:
        devices = jax.local_devices(backend=None if kind == "auto" else kind)
    except RuntimeError:
        there = jax.default_backend()
        raise InputError(
            f"--device {kind}: JAX finds none here; it finds {there}. Use --device auto, or install "
            f"JAX with support for {kind}"
        ) from None
    if count > len(devices):
        hint = (
            f"; XLA_FLAGS=--xla_force_host_platform_device_count={count} simulates them"
            if devices[0].platform == "cpu"
            else ""
        )
        raise InputError(
            f"--num-devices {count}: JAX finds {len(devices)} on this machine's {devices[0].platform}{hint}"
        )
    return devices[:count]
