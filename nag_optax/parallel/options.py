"""The options of `nag-optax serve` and `nag-optax work`, and what those of `serve` mean."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from nag_optax.train.checks import check, shown
from nag_optax.train.errors import InputError
from nag_optax.train.folder import RunFolder
from nag_optax.train.options import Float, Int, OptionalPath, Options, given_or
from nag_optax.train.registry import optimizer_row
from nag_optax.train.spec import resolve

MethodName = Literal["dana", "delayed", "diloco"]
Wire = Literal["float32", "bfloat16", "int8"]
PORT, TIMEOUT, LOCAL_STEPS = 7117, 30.0, 20
SERVER, TOKEN = "server.json", "token"
"""Files of a run's folder."""


@dataclass(frozen=True)
class ServeOptions(Options):
    """Train with workers who come, go and lag, with the options of nag-optax train."""

    # None stands for the default. In a run that is resumed, it stands for what the run was started with.

    method: Annotated[
        MethodName | None,
        tyro.conf.arg(metavar="{dana,delayed,diloco}", help_behavior_hint="(default: dana)"),
    ] = None
    """With dana, workers send gradients, and the server keeps a velocity for each; --optimizer must be nag.
    With delayed and diloco, workers take --local-steps with --optimizer, then send how far they came.
    The server applies that at once, or with diloco when all have arrived. It adds momentum once a round."""
    workers: Int = None
    """How many workers Ray starts on this machine, from 0 to 256; by default none. Others may always join."""
    port: Int = None
    """The port at which workers join, from 0 to 65535; 0 takes a free one; by default 7117."""
    host: Annotated[
        str | None, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="(default: 127.0.0.1)")
    ] = None
    """The address to listen at. Nobody but this machine reaches 127.0.0.1."""
    timeout: Float = None
    """Seconds of silence after which a worker no longer counts, above 0 and up to 1e6; by default 30."""
    local_steps: Int = None
    """How many steps a worker takes between two updates of delayed or diloco, at least 1; by default 20."""
    outer_learning_rate: Float = None
    """Learning rate of the server's steps with delayed or diloco, above 0; by default 0.7."""
    outer_momentum: Float = None
    """Momentum of these steps, in [0, 1); by default 0.9."""
    ray_address: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="")] = None
    """Start the --workers in the Ray cluster at this address, which decides by itself who may use it."""


@dataclass(frozen=True)
class WorkOptions:
    """Compute gradients for a server."""

    address: Annotated[str, tyro.conf.arg(metavar="HOST:PORT")] = f"127.0.0.1:{PORT}"
    """Address of the server."""
    token_file: OptionalPath = None
    """The file RUN_DIR/token that the server wrote; by default the environment variable NAG_OPTAX_TOKEN."""
    data_dir: OptionalPath = None
    """Where this machine has the data, or others of the same kind; by default the server's path."""
    max_updates: Int = None
    """Leave after this many updates, at least 1; by default at the end of the run."""
    wire: Annotated[Wire, tyro.conf.arg(metavar="{float32,bfloat16,int8}")] = "float32"
    """Numbers to send updates in. The last two round at random, and get the parameters in bfloat16."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute; auto takes the best that JAX finds."""
    patience: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 300.0
    """How long to look for a server that does not answer, at least 0."""


class Serving(NamedTuple):
    """The resolved options of the server."""

    method: MethodName
    workers: int
    port: int
    host: str
    timeout: float
    local_steps: int
    """0 if workers send gradients."""
    outer_learning_rate: float
    outer_momentum: float
    ray_address: str | None


_REFUSED_BY_ALL = ("preset", "prune", "ema", "shard_optimizer", "restart", "coordinator", "follow")
_REFUSED_BY_DANA = ("weight_decay", "smoothing", "adaptive_step", "low_memory", "inner")


def training(options: ServeOptions) -> Options:
    """The options of the served run, which is a run of `nag` or of `snoo`.

    Raises:
        InputError: if an option of the run does not go with a server, or not with this method.
    """
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Options)}
    method = given_or(options.method, "dana")
    plain = {field.name: field.default for field in dataclasses.fields(Options)}
    refused = (*_REFUSED_BY_ALL, *(_REFUSED_BY_DANA if method == "dana" else ()))
    for name in refused:
        if given[name] != plain[name] and given[name] != 0:
            raise _mistake(name, given[name], f"cannot be combined with --method {method}")
    if options.resident == "no":
        raise _mistake("resident", "no", "a worker must keep its images on the device")
    if options.num_devices != 1:
        raise _mistake("num_devices", options.num_devices, "a server uses one device")
    if given_or(options.evaluate_every, 1) != 1:
        raise _mistake("evaluate_every", options.evaluate_every, "a server is evaluated after each epoch")
    if options.precision == "bfloat16-parameters":
        raise _mistake("precision", options.precision, "a server keeps float32 parameters")
    optimizer = given_or(options.optimizer, "nag")
    if method == "dana":
        if optimizer != "nag" or options.momentum_schedule != "constant":
            raise InputError(
                f"--optimizer {optimizer} --momentum-schedule {options.momentum_schedule}: "
                "--method dana is nag with a constant momentum; for others, take --method delayed or diloco"
            )
    elif optimizer != "snoo":  # As a run that is resumed has it.
        if optimizer_row(optimizer).goes_around:
            raise _mistake(
                "optimizer",
                optimizer,
                f"--method {method} is itself around an optimizer; name the one inside",
            )
        given |= {"optimizer": "snoo", "inner": optimizer}
    return Options(**given)


def serving(options: ServeOptions, stored: dict[str, Any]) -> Serving:
    """An option as given, or else as a run that is resumed was started with, or else its default.

    Raises:
        InputError: names the option, its value and what is allowed.
    """
    check(options)
    known = {name: given_or(getattr(options, name), stored.get(name)) for name in Serving._fields}
    method = given_or(known["method"], "dana")
    if stored and method != stored["method"]:
        raise _mistake("method", method, f"the run was started with {stored['method']}")
    outer = method != "dana"
    for name in ("local_steps", "outer_learning_rate", "outer_momentum"):
        if not outer and getattr(options, name) is not None:
            raise _mistake(name, getattr(options, name), "is only for --method delayed or diloco")
    known |= {
        "method": method,
        "workers": given_or(known["workers"], 0),
        "port": given_or(known["port"], PORT),
        "host": given_or(known["host"], "127.0.0.1"),
        "timeout": given_or(known["timeout"], TIMEOUT),
        "local_steps": given_or(known["local_steps"], LOCAL_STEPS) if outer else 0,
        "outer_learning_rate": given_or(known["outer_learning_rate"], 0.7),
        "outer_momentum": given_or(known["outer_momentum"], 0.9),
    }
    found = Serving(**known)
    for name, fits, allowed in (
        ("workers", 0 <= found.workers <= 256, "a whole number from 0 to 256"),
        ("port", 0 <= found.port < 65536, "a whole number from 0 to 65535"),
        ("host", found.host, "an address of this machine, or 0.0.0.0 for all of them"),
        ("timeout", 0 < found.timeout <= 1e6, "a number above 0 and up to 1e6"),
        ("local_steps", found.local_steps >= outer, "a whole number of at least 1"),
        ("outer_learning_rate", 0 < found.outer_learning_rate < math.inf, "a finite number above 0"),
        ("outer_momentum", 0 <= found.outer_momentum < 1, "a number in [0, 1)"),
    ):
        if not fits:
            raise _mistake(name, getattr(found, name), f"must be {allowed}")
    if found.ray_address is not None and not found.workers:
        raise _mistake("ray_address", found.ray_address, "is only for --workers")
    return found


def stored_serving(folder: Path) -> dict[str, Any]:
    """The resolved options that the folder of a served run holds.

    Raises:
        InputError: if it holds none.
    """
    try:
        found = json.loads((folder / SERVER).read_text())
        return {name: found[name] for name in Serving._fields}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"--run-dir {folder}: is not the run of a server; nag-optax train --resume takes others"
        ) from None


class ServedFolder(RunFolder):
    """The files of a served run."""

    resolve = staticmethod(lambda options: resolve(training(options)))


def _mistake(name: str, value: Any, what: str) -> InputError:
    return InputError(f"--{name.replace('_', '-')} {shown(value)}: {what}")
