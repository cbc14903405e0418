"""Settings for every test: four simulated devices on the CPU, and no silent promotion.

`JAX_PLATFORMS=cuda python -m pytest -n 2` runs them on a GPU.
"""

import os
import signal
from importlib.metadata import version
from pathlib import Path

# A job in the background ignores Ctrl-C, and so would the commands that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A terminal or a CI service sets these. They would change widths and colours, here and in the commands.
for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_name, None)
_cache = Path(__file__).parents[1] / ".pytest_cache"
# Figures ignore the user's settings, and matplotlib does not warn of a home that it cannot write.
os.environ["MPLCONFIGDIR"] = str(_cache / "matplotlib")
# Before jax is imported: it reads them once. No test needs an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Most of the time goes into compiling. With 0, as `.ci/run` sets it, programs are compiled as users' are.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_flags = ["--xla_force_host_platform_device_count=4"]
_release = tuple(int(number) for number in version("jaxlib").split(".")[:2])
if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1" and _release < (0, 11):
    # Later releases have no such flags, and compile faster.
    _flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
_given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([_given, *(f for f in _flags if f.split("=")[0] not in _given)]).strip()
# Compiled programs are kept, for a second run and for the commands that the tests start. Each worker has its
# own folder, since JAX locks none.
_worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_cache / "jax" / _worker)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Tolerances follow from float32; a GPU would round the factors of a product to fewer bits.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
# Workers and the commands that they start share one GPU: none may take its memory in advance.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax  # noqa: E402
import pytest  # noqa: E402

# The scripts there need other frameworks; only the numbers that they wrote are read.
collect_ignore = ["golden"]


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
