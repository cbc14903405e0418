"""Several processes that train as one: they find each other, agree, and part.

Each runs the same program on the same data, and JAX joins their devices. Process 0 prints and writes files.
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

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nag_optax.train.devices import Device, find_devices
from nag_optax.train.errors import Diverged, InputError, Interrupted
from nag_optax.train.spec import Spec, check_batch

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
        _initialize(spec)
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
        except (ValueError, RuntimeError):  # What a collective raises, if that is sooner.
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


def _initialize(spec: Spec) -> None:
    try:
        if spec.coordinator == "auto":
            jax.distributed.initialize(heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
        else:
            jax.distributed.initialize(
                spec.coordinator,
                spec.num_processes,
                spec.process_id,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
                coordinator_bind_address=spec.coordinator,  # Or it would listen to every network.
            )
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"--coordinator {spec.coordinator}: cannot be used ({reason})") from None


@contextmanager
def _last_words() -> Iterator[Callable[[str], None]]:
    """Says a last line if this process ends within, however it ends. JAX's own account goes to a file."""
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
