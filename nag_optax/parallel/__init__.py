"""Nesterov's momentum on a server whose workers come, go and lag. The commands need the extra `parallel`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nag_optax.parallel.client import Client as Client
    from nag_optax.parallel.client import connect as connect
    from nag_optax.parallel.dana import DanaState as DanaState
    from nag_optax.parallel.dana import dana_zero as dana_zero
    from nag_optax.parallel.delayed import DelayedState as DelayedState
    from nag_optax.parallel.delayed import delayed_nesterov as delayed_nesterov
    from nag_optax.parallel.method import Method as Method

_HOMES = {
    "Client": "client",
    "connect": "client",
    "DanaState": "dana",
    "DelayedState": "delayed",
    "Method": "method",
    "dana_zero": "dana",
    "delayed_nesterov": "delayed",
}
__all__ = ["Client", "DanaState", "DelayedState", "Method", "connect", "dana_zero", "delayed_nesterov"]


def __getattr__(name: str) -> Any:
    # Imported when used, as in `nag_optax.train`.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
