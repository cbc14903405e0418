"""The styles: each optimizer has one that no other has, for colour-blind readers too."""

import pytest

from nag_optax.compare.config import CONTENDER_NAMES
from nag_optax.compare.styles import STYLES
from tests.vision import DEFICIENCIES, smallest_distance


def test_every_optimizer_has_a_mark_and_a_colour_of_its_own():
    assert set(STYLES) == set(CONTENDER_NAMES)
    assert len({style.color for style in STYLES.values()}) == len(STYLES)
    assert len({style.marker for style in STYLES.values()}) == len(STYLES)


@pytest.mark.parametrize("deficiency", [None, *DEFICIENCIES])
def test_colour_blind_readers_tell_the_optimizers_apart(deficiency):
    """By as much as the palette alone."""
    assert smallest_distance([*(style.color for style in STYLES.values()), "white"], deficiency) > 15
