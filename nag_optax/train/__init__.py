"""Image classifiers with Nesterov acceleration, from Python; needs the extra `train`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nag_optax.train.options import Options as Options
    from nag_optax.train.registry import register_dataset as register_dataset
    from nag_optax.train.registry import register_model as register_model
    from nag_optax.train.registry import register_optimizer as register_optimizer
    from nag_optax.train.trained import Trained as Trained
    from nag_optax.train.trained import load as load
    from nag_optax.train.trained import run as run

_HOMES = {
    "Options": "options",
    "Trained": "trained",
    "load": "trained",
    "register_dataset": "registry",
    "register_model": "registry",
    "register_optimizer": "registry",
    "run": "trained",
}
__all__ = ["Options", "Trained", "load", "register_dataset", "register_model", "register_optimizer", "run"]


def __getattr__(name: str) -> Any:
    # Imported when used: the command must hear Ctrl-C, and show --help, before JAX is there.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
