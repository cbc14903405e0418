"""The styles: each optimizer has one that no other has, for colour-blind readers too."""

import pytest

from nag_optax.compare.figures import styles_of
from nag_optax.compare.spec import CONTENDERS
from nag_optax.plot import style
from tests.vision import DEFICIENCIES, smallest_distance

STYLES = {name: row.style for name, row in CONTENDERS.items()}


def test_every_optimizer_has_a_mark_and_a_colour_of_its_own():
    assert len({own.color for own in STYLES.values()}) == len(STYLES)
    assert len({own.marker for own in STYLES.values()}) == len(STYLES)


@pytest.mark.parametrize("deficiency", [None, *DEFICIENCIES])
def test_colour_blind_readers_tell_the_optimizers_apart(deficiency):
    """By as much as the palette alone."""
    assert smallest_distance([*(own.color for own in STYLES.values()), "white"], deficiency) > 15


def test_the_palette_of_the_figures_is_among_the_colours():
    """Written out in the table, which imports no figures."""
    assert set(style.PALETTE) <= {own.color for own in STYLES.values()}


def test_optimizers_of_ones_own_look_like_no_other_in_the_figure():
    names = ["nag", "optax:adam", "optax:lamb", "adam"]
    styles = styles_of([{"name": name} for name in names])
    assert list(styles) == names and styles["nag"] == STYLES["nag"] and styles["adam"] == STYLES["adam"]
    assert len({own.color for own in styles.values()}) == len({own.marker for own in styles.values()}) == 4
