"""The options of the command `nag-optax`, and what is said of those that are wrong.

tyro makes --help of the classes of options and sorts the words of the command by option. They are read here,
so that a mistake is one line that does not change with tyro.
"""

import contextlib
import dataclasses
import difflib
import io
from typing import Annotated, Any, get_args, get_type_hints

import tyro

from nag_optax.compare.spec import CompareOptions, allowed
from nag_optax.train.checks import flag
from nag_optax.train.errors import InputError
from nag_optax.train.hints import choices, is_several, read
from nag_optax.train.options import EvaluateOptions, Options
from nag_optax.train.registry import defaults_table

_COMMANDS = {"train": Options, "evaluate": EvaluateOptions, "compare": CompareOptions}


class _Words(list[str]):
    """What was given to an option."""


def parse(arguments: list[str]) -> tuple[Any, set[str]]:
    """The options, and the names of those that were given.

    Raises:
        InputError: in one line, names the option, its value and what is allowed.
    """
    command = arguments[0]
    if command not in (*_COMMANDS, "-h", "--help"):
        if command.startswith("-"):
            raise InputError(f"{_unknown([command], ())}; see nag-optax --help")
        raise InputError(f"{command}: no such command; must be train, evaluate or compare")
    _check_missing(arguments)
    options, unknown = _sorted_by_option(arguments)
    if unknown:
        raise InputError(f"{_unknown(unknown, _hints(command))}; see nag-optax {command} --help")
    values = {}
    for name, hint in _hints(command).items():
        value = getattr(options, name)
        if isinstance(value, _Words):
            values[name] = _read(name, value, hint)
        elif isinstance(value, tuple) and value:  # an option that may be repeated
            values[name] = _read(name, [word for words in value for word in words], hint)
        elif value is True:
            values[name] = True
    return dataclasses.replace(options, **values), set(values)


def _sorted_by_option(arguments: list[str]) -> tuple[Any, list[str]]:
    """The options, with its words in each that was given; and the words that fit none."""
    commands = (
        Annotated[Options, tyro.conf.subcommand("train")]
        | Annotated[EvaluateOptions, tyro.conf.subcommand("evaluate")]
        | Annotated[CompareOptions, tyro.conf.subcommand("compare")]
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()), _registry():
            return tyro.cli(
                commands,
                prog="nag-optax",
                description="Image classifiers with Nesterov acceleration. --version prints the version.",
                args=arguments,
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalRequiredArgs),
            )
    except SystemExit as exit:
        if exit.code in (0, None):
            if arguments[0] == "train":
                print(
                    f"Defaults by dataset and model, the learning rates by optimizer:\n\n{defaults_table()}"
                )
            raise
        if arguments[0] == "evaluate":
            missing = "RUN_DIR is missing: name the folder of a run, nag-optax evaluate RUN_DIR"
            raise InputError(missing) from None
        raise InputError(f"{arguments[-1]}: not understood; see nag-optax {arguments[0]} --help") from None


def _registry() -> tyro.constructors.ConstructorRegistry:
    """Makes tyro hand over the words of an option, and names in --help what the option takes."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def words(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        hint: Any = info.type
        if hint is bool or tyro.conf.UseAppendAction in info.markers or _holds_a_command(hint):
            return None
        names = choices(hint)
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs="*" if is_several(hint) else 1,
            metavar="{" + ",".join(names) + "}" if names else getattr(hint, "__name__", "").upper(),
            instance_from_str=_Words,
            is_instance=lambda _: True,
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _holds_a_command(hint: Any) -> bool:
    return hint in _COMMANDS.values() or any(map(_holds_a_command, get_args(hint)))


def _hints(command: str) -> dict[str, Any]:
    return get_type_hints(_COMMANDS[command]) if command in _COMMANDS else {}


def _read(name: str, words: list[str], hint: Any) -> Any:
    try:
        return read(words, hint)
    except ValueError:
        raise InputError(f"{flag(name)} {' '.join(words)}: must be {allowed(name)}") from None


def _check_missing(arguments: list[str]) -> None:
    """An option without a value: tyro would stand for its default, or take it for a flag."""
    taking = {flag(name): name for name, hint in _hints(arguments[0]).items() if hint is not bool}
    for word, after in zip(arguments, [*arguments[1:], "--"], strict=True):
        option, equals, value = word.partition("=")
        if option in taking and not value and (equals or after.startswith("--")):
            raise InputError(f"{option} without a value: must be {allowed(taking[option])}")


def _unknown(words: list[str], known: Any) -> str:
    """What is said of words that fit no option, options and their values."""
    option = next((word.split("=")[0] for word in words if word.startswith("-")), None)
    if option is None:
        return f"{words[0]}: belongs to no option"
    if option.startswith("--no-"):  # The nearest would say the opposite.
        return f"{option}: no such option"
    near = difflib.get_close_matches(option, [flag(name) for name in known], n=1, cutoff=0.8)
    return f"{option}: no such option" + "".join(f"; did you mean {name}?" for name in near)
