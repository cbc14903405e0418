"""Settings for every test: four simulated devices on the CPU, and no silent promotion.

`JAX_PLATFORMS=cuda python -m pytest -n 2` runs them on a GPU.
"""

import os
import signal

# A job in the background ignores Ctrl-C, and so would the commands that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before jax is imported: it reads them once. No test needs an accelerator.
_flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=4".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tolerances follow from float32; a GPU would round the factors of a product to fewer bits.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
# Workers and the commands that they start share one GPU: none may take its memory in advance.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax  # noqa: E402
import pytest  # noqa: E402

# The scripts there need other frameworks; only the numbers that they wrote are read.
collect_ignore = ["golden"]


def pytest_configure(config: pytest.Config):
    """One folder of compiled programs for each worker: JAX locks none, and a second run finds them."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    jax.config.update("jax_compilation_cache_dir", str(config.rootpath / ".pytest_cache" / "jax" / worker))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_runtest_setup(item: pytest.Item):
    if item.get_closest_marker("four_devices") and jax.device_count() < 4:
        pytest.skip(f"needs four devices, and there is {jax.device_count()}: {jax.devices()[0].device_kind}")


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
