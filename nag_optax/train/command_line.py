"""The command line of `nag-optax`: tyro reads the options, makes --help of them and says what is wrong."""

import dataclasses
from typing import Annotated, Any

import tyro

from nag_optax.compare.spec import CompareOptions
from nag_optax.parallel.options import ServeOptions, WorkOptions
from nag_optax.train.errors import InputError
from nag_optax.train.options import EvaluateOptions, ExportOptions, Options, PredictOptions
from nag_optax.train.registry import defaults_table

_Commands = (
    Annotated[Options, tyro.conf.subcommand("train")]
    | Annotated[PredictOptions, tyro.conf.subcommand("predict")]
    | Annotated[EvaluateOptions, tyro.conf.subcommand("evaluate")]
    | Annotated[ExportOptions, tyro.conf.subcommand("export")]
    | Annotated[CompareOptions, tyro.conf.subcommand("compare")]
    | Annotated[ServeOptions, tyro.conf.subcommand("serve")]
    | Annotated[WorkOptions, tyro.conf.subcommand("work")]
)
_CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalRequiredArgs)


def parse(arguments: list[str]) -> Any:
    """The options that the arguments name. Where tyro cannot read them it says why, and exits with code 2."""
    if empty := [word for word in arguments if word.startswith("--") and word.endswith("=")]:
        raise InputError(f"{empty[0]} has no value; see nag-optax {arguments[0]} --help")
    try:
        return tyro.cli(
            _Commands,
            prog="nag-optax",
            description="Image classifiers with Nesterov acceleration. --version prints the version.",
            args=arguments,
            config=_CONFIG,
        )
    except SystemExit as end:
        if not end.code and arguments[0] in ("train", "serve"):
            print(f"Defaults by dataset and model, the learning rates by optimizer:\n\n{defaults_table()}")
        raise


def parse_over(stored: Any, arguments: list[str]) -> Any:
    """The options of a command whose defaults are these."""
    # A flag can only be set, and what is repeated only grows: they start as the command's own.
    growing = {
        field.name: field.default
        for field in dataclasses.fields(stored)
        if isinstance(field.default, bool | tuple)
    }
    options = tyro.cli(
        type(stored),
        prog=f"nag-optax {arguments[0]}",
        args=arguments[1:],
        default=dataclasses.replace(stored, **growing),
        config=_CONFIG,
    )
    kept = {name: getattr(options, name) or getattr(stored, name) for name in growing}
    return dataclasses.replace(options, **kept)
