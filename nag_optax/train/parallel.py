"""Devices, and several processes that train as one: they find each other, agree, and part.

Each process runs the same program on the same data, and JAX joins their devices. Process 0 prints and
writes files.
"""

import os
import signal
import subprocess
import sys
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nag_optax.train.errors import Diverged, InputError, Interrupted
from nag_optax.train.spec import Spec, check_batch

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


_HEARTBEAT_SECONDS = 30
"""A process that is silent for so long is gone."""

# Says the last line that it is given, unless that is empty.
_SPEAKER = "import sys\nline = sys.stdin.read().splitlines()[-1]\nif line: print(line, file=sys.stderr)"


@contextmanager
def joined(spec: Spec) -> Iterator[None]:
    """The processes of the run, if it has several, as one.

    JAX ends each of them at once if it does not find the others, or if one is gone. One line then says why.
    """
    if spec.coordinator is None:
        yield
        return
    with _last_words() as prepare:
        prepare(f"--coordinator {spec.coordinator}: the processes did not find each other there")
        by_hand: dict[str, Any] = {
            "coordinator_address": spec.coordinator,
            "num_processes": spec.num_processes,
            "process_id": spec.process_id,
            "coordinator_bind_address": spec.coordinator,  # Or it would listen to every network.
        }
        found = {} if spec.coordinator == "auto" else by_hand
        try:
            jax.distributed.initialize(**found, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
        except (ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"--coordinator {spec.coordinator}: cannot be used ({reason})") from None
        # JAX takes SIGTERM for its own use.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        prepare(
            f"process {jax.process_index()} ended in the middle: it was killed, or another one is gone; "
            "--resume goes on from the newest checkpoint, with several processes or with one"
        )
        try:
            check_batch(spec, jax.process_count())
            yield
        except (Diverged, Interrupted):  # So ends every process.
            jax.distributed.shutdown()
            raise
        except (ValueError, RuntimeError, TimeoutError):  # Of a collective or a save, if that is sooner.
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
        jax.distributed.shutdown()


def check_alike(spec: Spec, *data: object) -> None:
    """Refuses processes with other options or `data`: they would wait for each other, or mix two runs."""
    options = {name: value for name, value in spec.to_dict().items() if name not in ("data_dir", "device")}
    digest = zlib.crc32(repr((options, data)).encode()) >> 1  # An int32.
    if largest(digest) != -largest(-digest):
        jax.distributed.shutdown()  # Once each of them knows.
        raise InputError("the processes do not have the same options and training data; start them alike")


@contextmanager
def _last_words() -> Iterator[Callable[[str], None]]:
    """Says a last line if this process ends within, however it ends. JAX's own account goes to a file.

    This keeps a promise: where one process is killed, the others end within a minute with a clear line.
    """
    speaker = subprocess.Popen(
        [sys.executable, "-ISc", _SPEAKER], stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    assert speaker.stdin is not None
    handle, log = tempfile.mkstemp(prefix="nag-optax-", suffix=".log")

    def prepare(line: str) -> None:
        print(f"nag-optax: {line} (JAX's account: {log})", file=speaker.stdin, flush=True)

    try:
        with _native_output_to(handle):
            yield prepare
    finally:
        os.unlink(log)
        speaker.communicate("\n")


@contextmanager
def _native_output_to(handle: int) -> Iterator[None]:
    """Sends the output of native code to a file. Python's goes where it went."""
    streams = sys.stdout, sys.stderr
    descriptors = [os.dup(number) for number in (1, 2)]
    sys.stdout, sys.stderr = (open(os.dup(number), "w", buffering=1) for number in (1, 2))
    for number in (1, 2):
        os.dup2(handle, number)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.close()
        sys.stdout, sys.stderr = streams
        for number, descriptor in zip((1, 2), descriptors, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(handle)


def devices_of_all(kind: str, count: int) -> list[Device]:
    """`count` devices of that kind in each process, those of process 0 first; see `find_devices`."""
    platform = find_devices(kind, count)[0].platform
    of_process = (
        [device for device in jax.devices(platform) if device.process_index == i]
        for i in range(jax.process_count())
    )
    return [device for devices in of_process for device in devices[:count]]


def largest(number: int) -> int:
    """The largest of the numbers of all processes, which wait for each other here."""
    if jax.process_count() == 1:
        return number
    one_each = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([device for _, device in sorted(one_each.items())]), ("process",))
    numbers = jax.make_array_from_process_local_data(
        NamedSharding(mesh, PartitionSpec("process")), np.array([number], np.int32)
    )
    return int(jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))(numbers))
