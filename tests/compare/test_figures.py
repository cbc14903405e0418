"""The figures: what is drawn of results written by hand."""

import matplotlib.axes
import numpy as np
import pytest

from nag_optax.compare.config import CONTENDER_NAMES
from nag_optax.compare.figures import _STYLES, draw_data, draw_problem
from nag_optax.compare.problems import make_problem


@pytest.fixture
def drawn(monkeypatch):
    """Every line that is plotted: (x, y)."""
    lines, plot = [], matplotlib.axes.Axes.plot

    def recorded(axes, *args, **kwargs):
        lines.append(tuple(np.atleast_1d(a).tolist() for a in args[:2]))
        return plot(axes, *args, **kwargs)

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", recorded)
    return lines


def trial(rate, diverged=False):
    curve = None if diverged else 0.25
    return {
        "learning_rate": rate,
        "diverged": diverged,
        "train_loss": [0.1, 0.3],
        "curves": {"loss": [[1.0, 0.5], [3.0, 0.5]], "test_accuracy": [[0.5, curve], [0.5, curve]]},
    }


def test_every_optimizer_has_a_style_of_its_own():
    assert set(_STYLES) == set(CONTENDER_NAMES)
    assert len({color for color, _ in _STYLES.values()}) == len(_STYLES)


def test_curves_are_means_over_the_seeds_and_crosses_mark_divergence(drawn, tmp_path):
    nag = {"name": "nag", "label": "NAG", "best": 0, "trials": [trial(0.1), trial(1.0, diverged=True)]}
    lost = {"name": "sgd", "label": "GD", "best": None, "trials": [trial(1.0, diverged=True)]}
    draw_data([nag, lost], np.array([10, 20]), 10, "a title", tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    loss, error, sensitivity, cross, best, other = drawn
    assert loss == ([1.0, 2.0], [2.0, 0.5]) and error == ([1.0, 2.0], [50.0, 75.0])
    assert sensitivity == ([0.1], [0.2]) and best == ([0.1], [0.2])
    assert cross[0] == other[0] == [1.0] and cross[1] > other[1]


def test_a_loss_of_zero_has_its_place_on_the_logarithmic_axis(drawn, tmp_path):
    zero = trial(0.1) | {"train_loss": [0.0, 0.0]}
    draw_data(
        [{"name": "muon", "label": "Muon", "best": 0, "trials": [zero, trial(1.0)]}],
        np.array([10, 20]),
        10,
        "a title",
        tmp_path / "a.png",
    )
    assert drawn[2] == ([0.1, 1.0], [1e-8, 0.2])


def test_long_curves_are_thinned_to_means_of_neighbours(drawn, tmp_path):
    long = trial(0.1)
    long["curves"] = {"loss": [list(range(1, 91))], "test_accuracy": [[0.5] * 90]}
    result = {"name": "nag", "label": "NAG", "best": 0, "trials": [long]}
    draw_data([result], np.arange(1, 91), 1, "a title", tmp_path / "a.png")
    assert drawn[0][0] == drawn[0][1] == list(np.arange(2.0, 91, 3))


def test_paths_of_a_problem(drawn, tmp_path):
    path = [[1.0, 0.3], [0.5, 0.1], [0.0, 0.0]]
    kept = {"learning_rate": 0.1, "diverged": False, "gap": [4.0, 2.0, 0.0], "path": path}
    kept["steps_to_gap"] = {"0.001": 2, "1e-06": 2}
    lost = {"learning_rate": 0.4, "diverged": True, "gap": [4.0, None], "path": path}
    lost["steps_to_gap"] = {"0.001": None, "1e-06": None}
    results = [{"name": "nag", "label": "NAG", "best": 0, "trials": [kept, lost]}]
    draw_problem(make_problem("quadratic"), results, "a title", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert ([1.0, 0.5, 0.0], [0.3, 0.1, 0.0]) in drawn
    assert ([0.0, 1.0, 2.0], [1.0, 0.5, 0.0]) in drawn
    *_, steps, cross, ring = drawn
    assert steps == ring == ([0.1], [2.0]) and cross[0] == [0.4]


def test_an_optimizer_that_does_not_get_there_has_its_crosses_and_a_ring_on_the_best(drawn, tmp_path):
    path = [[1.0, 0.3], [0.9, 0.2]]
    slow = [
        {
            "learning_rate": rate,
            "diverged": False,
            "gap": [4.0, 3.0],
            "path": path,
            "steps_to_gap": {"0.001": None, "1e-06": None},
        }
        for rate in (0.1, 0.2)
    ]
    results = [{"name": name, "label": name, "best": 1, "trials": slow} for name in ("sgd", "nag")]
    draw_problem(make_problem("quadratic"), results, "a title", tmp_path / "a.png")
    *_, first, first_ring, second, second_ring = drawn
    assert first[0] == second[0] == [0.1, 0.2] and first_ring[0] == second_ring[0] == [0.2]
    assert first[1][0] == first_ring[1][0] > second[1][0] == second_ring[1][0]


@pytest.mark.parametrize("count", [1, 4, 5, 8])
def test_every_column_of_paths_has_its_numbers(count, tmp_path, monkeypatch):
    ticked = []
    monkeypatch.setattr(
        matplotlib.axes.Axes, "tick_params", lambda axes, **kwargs: ticked.append((axes.get_title(), kwargs))
    )
    trial = {"learning_rate": 0.1, "diverged": False, "gap": [4.0], "path": [[1.0, 0.3]]}
    trial["steps_to_gap"] = {"1e-06": 1}
    results = [{"name": "nag", "label": str(i), "best": 0, "trials": [trial]} for i in range(count)]
    draw_problem(make_problem("quadratic"), results, "a title", tmp_path / "a.png")
    columns = [str(i) for i in range(max(0, count - 4), count)]
    assert [title for title, kwargs in ticked if kwargs == {"labelbottom": True}] == columns
