"""How each optimizer of a comparison is drawn: colour, dashes and mark."""

from typing import Any, NamedTuple

from nag_optax.plot import style


class Style(NamedTuple):
    """The dashes tell curves apart in black and white too, the marks what is no curve."""

    color: str
    dashes: Any
    marker: Any


_DOTTED, _DASHED, _DASH_DOT = (0, (1, 1)), (0, (5, 1)), (0, (6, 1, 1, 1))

# The colours after the palette's eight lie far from these and from each other for colour-blind readers too.
STYLES: dict[str, Style] = {
    "sgd": Style(style.BLACK, _DOTTED, "o"),
    "momentum": Style(style.ORANGE, _DASHED, "s"),
    "nag": Style(style.BLUE, "-", "D"),
    "nag-restart": Style(style.SKY_BLUE, "-", "d"),
    "adam": Style(style.VERMILION, _DASHED, "^"),
    "nadamw": Style(style.PURPLE, "-", "v"),
    "adan": Style(style.GREEN, "-", "P"),
    "muon": Style(style.GREY, "-", "h"),
    "adamw": Style("#872D00", _DOTTED, "<"),
    "nadam": Style("#783C78", _DASHED, ">"),
    "snoo": Style("#C3A54B", _DASH_DOT, (4, 1, 0)),
    "ema_nesterov": Style("#3C3CA5", "-", "*"),
    "gpa": Style("#003C1E", _DASH_DOT, "p"),
}
