"""The devices of a run, and the memory that its data may take."""

import os
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nag_optax.train.errors import InputError

Device = Any  # jax.Device is no type to a static checker


def find_devices(kind: str, count: int) -> list[Device]:
    """`count` local devices of that kind; "auto" takes JAX's default."""
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


def put(tree: Any, shardings: Any) -> Any:
    """The arrays of the tree with these shardings. Each of several processes has the whole tree."""

    def one(array: Any, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        local = np.asarray(array)
        return jax.make_array_from_callback(local.shape, sharding, lambda index: local[index])

    return jax.tree.map(one, tree, shardings)


def put_parts(tree: Any, sharding: NamedSharding) -> Any:
    """The arrays with this sharding. Each of several processes has its part of them."""
    return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), tree)


def memory_of(device: Device) -> int:
    """The bytes that a program may hold there."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return _host_memory()


def stays_resident(resident: str, device: Device, num_bytes: int) -> bool:
    """Whether images of so many bytes stay on the device: auto gives them a quarter of either memory."""
    fits = 4 * num_bytes <= min(memory_of(device), _host_memory())
    return resident == "yes" or (resident == "auto" and fits)


def _host_memory() -> int:
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 4 * 2**30


def split_over(mesh: Mesh, tree: Any) -> Any:
    """A sharding for each array, which splits the first axis that the devices divide evenly.

    Where there is no such axis, every device has the whole array.

    Source: Rajbhandari et al., *ZeRO: memory optimizations toward training trillion parameter models*, 2020,
    stage 1, for the state of an optimizer.
    """
    (name,) = mesh.axis_names

    def sharding(array: jax.Array) -> NamedSharding:
        axes = [axis for axis, size in enumerate(array.shape) if size and size % mesh.size == 0]
        return NamedSharding(mesh, PartitionSpec(*[None] * axes[0], name) if axes else PartitionSpec())

    return jax.tree.map(sharding, tree)
