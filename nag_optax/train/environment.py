"""Where a measurement was made: date, machine, versions."""

import datetime
import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment_of(*packages: str, device: Any = None) -> dict[str, Any]:
    """Date, machine and the versions of the packages that are installed, for a JSON file.

    The device is JAX's default if none is named.
    """
    device = device or jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "backend": device.platform,
            "device": _cpu_model() if device.platform == "cpu" else device.device_kind,
            "cores": num_cores(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {"python": platform.python_version()} | versions_of(*packages),
    }


def versions_of(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed."""
    versions = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def headline(environment: dict[str, Any]) -> str:
    """The environment in one line, for tables."""
    machine, versions = environment["machine"], environment["versions"]
    names = [f"{name} {version}" for name, version in versions.items()]
    return ", ".join([machine["device"], f"{machine['cores']} cores", *names, environment["date"][:10]])


def _cpu_model() -> str:
    """The name of the processor. Linux has it in one file only; others tell the platform module."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
