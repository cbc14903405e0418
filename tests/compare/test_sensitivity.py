"""The panel of the learning rates: values below a line, what gives none above it."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from nag_optax.compare.figures import draw_sensitivity
from nag_optax.compare.spec import CONTENDERS


def results(values):
    """One for each row of values; the first is the best."""
    return [
        {
            "name": name,
            "best": 0,
            "trials": [{"learning_rate": 10.0**-i, "value": v} for i, v in enumerate(row)],
        }
        for name, row in zip(CONTENDERS, values, strict=False)
    ]


def draw(values):
    figure = Figure(figsize=(4, 3.2))
    axes = figure.subplots()
    draw_sensitivity(axes, results(values), lambda trial: trial["value"], "not reached")
    figure.draw_without_rendering()
    return axes


def heights(line):
    return np.asarray(line.get_ydata(), float)


def marks(axes):
    """Heights, from 0 to 1, of what stands above the line, without the ring."""
    above = axes.get_xaxis_transform()
    lines = [line for line in axes.get_lines() if line.get_transform() == above and line.get_mfc() != "none"]
    return [heights(line)[0] for line in lines]


def height(axes, value):
    return axes.transAxes.inverted().transform(axes.transData.transform((1.0, value)))[1]


def test_nothing_is_reserved_where_nothing_is_lost():
    axes = draw([[200.0, 900.0], [100.0, 400.0]])
    assert height(axes, 900.0) > 0.9 and not axes.texts and not marks(axes)


@pytest.mark.parametrize("count", [1, 3, 14])
def test_what_is_lost_stands_above_the_values_where_no_number_is(count):
    axes = draw([[200.0, 900.0, None]] * count)
    across = axes.get_yaxis_transform()
    (line,) = [height(axes, heights(line)[0]) for line in axes.get_lines() if line.get_transform() == across]
    ticks = [height(axes, tick) for tick in [*axes.get_yticks(), *axes.get_yticks(minor=True)]]
    assert height(axes, 900.0) < line and max(ticks) <= line < min(marks(axes))
    assert [text.get_text() for text in axes.texts] == ["not reached"]
    # Evenly spaced, in the order of the legend, and below the word.
    rows = marks(axes)
    assert len(rows) == count and line > 0.55
    word = axes.texts[0].get_window_extent().transformed(axes.transAxes.inverted())
    assert rows[0] < word.y0
    steps = -np.diff([*rows, line])
    np.testing.assert_allclose(steps[:-1], steps[0], rtol=1e-9)
    assert (steps > 0).all()


def test_where_all_is_lost_there_is_no_number_at_all():
    axes = draw([[None, None], [None, None]])
    assert not len(axes.get_yticks()) and not len(axes.get_yticks(minor=True))
    assert len(marks(axes)) == 2 and [text.get_text() for text in axes.texts] == ["not reached"]


def test_only_who_lost_has_a_row():
    axes = draw([[200.0, 900.0], [100.0, None]])
    (lost,) = marks(axes)
    assert 0.85 < lost < 0.9


@pytest.mark.parametrize("values", [[0.2], [0.2, 0.3], [0.2, 900.0], [1e-8, 1e31]])
def test_every_panel_has_numbers(values):
    axes = draw([values])
    labels = [label for label in axes.get_yticklabels(which="both") if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert len(labels) > 1
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
