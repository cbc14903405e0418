"""Where a measurement was made."""

from types import SimpleNamespace
from typing import Any

import jax

from nag_optax.train.environment import environment_of


def test_the_machine_is_the_device_that_was_used():
    device: Any = SimpleNamespace(platform="gpu", device_kind="A Card")
    machine = environment_of(device=device)["machine"]
    assert (machine["backend"], machine["device"]) == ("gpu", "A Card")
    machine = environment_of(device=jax.devices("cpu")[0])["machine"]
    assert machine["backend"] == "cpu" and machine["device"] != "cpu"  # the processor's name
