"""The options of the command `nag-optax`, and what is said of those that are wrong."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
from collections.abc import Iterator
from typing import Annotated, Any

import tyro

from nag_optax.compare.config import CompareConfig, allowed
from nag_optax.train.checks import flag
from nag_optax.train.config import EvaluateConfig, TrainConfig
from nag_optax.train.defaults import defaults_table
from nag_optax.train.errors import InputError

_COMMANDS = {"train": TrainConfig, "evaluate": EvaluateConfig, "compare": CompareConfig}
_UNRECOGNIZED = "Unrecognized options: "


def parse(arguments: list[str]) -> tuple[Any, set[str]]:
    """The configuration, and the names of the options that were given.

    Raises:
        InputError: in one line, names the option, its value and what is allowed.
    """
    commands = (
        Annotated[TrainConfig, tyro.conf.subcommand("train")]
        | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
        | Annotated[CompareConfig, tyro.conf.subcommand("compare")]
    )
    if not arguments[0].startswith("-") and arguments[0] not in _COMMANDS:
        raise InputError(f"{arguments[0]}: no such command; must be train, evaluate or compare")
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            config = tyro.cli(
                commands,
                prog="nag-optax",
                description="Image classifiers with Nesterov acceleration. --version prints the version.",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalRequiredArgs),
            )
    except SystemExit as exit:
        if exit.code in (0, None):
            if arguments[0] == "train":
                print(
                    f"Defaults by dataset and model, the learning rates by optimizer:\n\n{defaults_table()}"
                )
            raise
        raise InputError(_one_line(errors.getvalue(), arguments[0])) from None
    options = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
    names = {option.removeprefix("--").replace("-", "_") for option in options}
    given = names & {field.name for field in dataclasses.fields(config)}
    # The parser takes a list of nothing, which would stand for the default.
    for name in given:
        if getattr(config, name) == ():
            raise InputError(f"{flag(name)} without a value: must be {allowed(name)}")
    return config, given


def _one_line(message: str, command: str) -> str:
    """The parser's boxed message as one line that names the option, the value and what is allowed."""
    # The box is drawn in Unicode or in ASCII; its rules part a title, the message and a hint.
    lines = [line.strip(" │|\n") for line in message.splitlines()]
    parts = [" ".join(part) for rule, part in _runs(lines) if not rule]
    text = parts[1] if len(parts) > 1 and not message.startswith("╭") else parts[0]
    help_of = f"nag-optax {command} --help" if command in _COMMANDS else "nag-optax --help"
    if text.startswith(_UNRECOGNIZED):
        return f"{_unknown(text.removeprefix(_UNRECOGNIZED).split(', '), command)}; see {help_of}"
    for pattern in (
        r"Error parsing (?P<option>--[\w-]+): .*from \['(?P<value>.*?)'\]",
        r"Error parsing (?P<option>--[\w-]+): .*: '(?P<value>.*?)'",
        r"invalid choice '(?P<value>.*?)' for argument '(?P<option>--[\w-]+)'",
        r"Missing value(?P<value>) for argument '\W*(?P<option>--[\w-]+)",
    ):
        if found := re.search(pattern, text):
            name = found["option"].removeprefix("--").replace("-", "_")
            value = found["value"].replace("', '", " ") or "without a value"
            return f"{found['option']} {value}: must be {allowed(name)}"
    if "RUN_DIR" in text:
        return "RUN_DIR is missing: name the folder of a run, nag-optax evaluate RUN_DIR"
    return f"{text.rstrip('.')}; see {help_of}"


def _unknown(words: list[str], command: str) -> str:
    """What is said of words that the parser knows no place for, options and their values."""
    option = next((word.split("=")[0] for word in words if word.startswith("--")), None)
    if option is None:
        return f"{words[0]}: belongs to no option"
    if option.startswith("--no-"):  # The nearest would say the opposite.
        return f"{option}: no such option"
    known = [flag(f.name) for f in dataclasses.fields(_COMMANDS[command])] if command in _COMMANDS else []
    near = [name for name in difflib.get_close_matches(option, known, n=1, cutoff=0.8) if name != option]
    return f"{option}: no such option" + "".join(f"; did you mean {name}?" for name in near)


def _runs(lines: list[str]) -> Iterator[tuple[bool, list[str]]]:
    """Runs of rules and of text, without the empty lines."""
    return (
        (rule, list(run))
        for rule, run in itertools.groupby(
            filter(None, lines), key=lambda line: line[0] in "╭╰+" or not line.strip("─-")
        )
    )
