"""How many runs fit: half of what the device has, in units of what one takes."""

from types import SimpleNamespace
from typing import Any

import jax
import pytest

from nag_optax.compare.lanes import lanes_that_fit


@pytest.mark.parametrize(("limit", "count"), [(1000, 5), (1199, 5), (1200, 6), (10, 1)])
def test_half_the_memory_is_shared(limit: int, count: int):
    program = SimpleNamespace(argument_size_in_bytes=60, output_size_in_bytes=30, temp_size_in_bytes=10)
    device: Any = SimpleNamespace(memory_stats=lambda: {"bytes_limit": limit})
    assert lanes_that_fit(program, device) == count


def test_where_nothing_is_known_runs_follow_each_other():
    assert lanes_that_fit(None, jax.devices()[0]) == 1
