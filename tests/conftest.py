"""Settings for every test: four simulated devices on the CPU, and no silent promotion."""

import os
import signal

# A job in the background ignores Ctrl-C, and so would the commands that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before jax is imported: XLA reads both once. No test needs an accelerator.
_flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=4".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import pytest  # noqa: E402

# The scripts there need other frameworks; only the numbers that they wrote are read.
collect_ignore = ["golden"]


@pytest.fixture(autouse=True)
def strict_promotion():
    """Not for the doctests: those show what a user sees."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    """Double precision, for comparison with the NumPy references."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def standard_promotion():
    """For Optax and Flax code that mixes dtypes: cosine schedules, Adam, MultiSteps, nnx."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
