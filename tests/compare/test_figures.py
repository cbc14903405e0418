"""The figures, drawn from results written by hand."""

import matplotlib.axes
import numpy as np
import pytest

from nag_optax.compare.figures import draw_data, draw_problem
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


@pytest.fixture
def saved(monkeypatch):
    """The panels of each figure that is saved, by title."""
    figures = []

    def save(figure, *_, **__):
        figure.draw_without_rendering()
        figures.append({axes.get_title(): axes for axes in figure.axes})

    monkeypatch.setattr("nag_optax.plot.style.save", save)
    return figures


def trial(rate, diverged=False):
    return {"learning_rate": rate, "diverged": diverged, "validation_loss": [0.1, 0.3]}


def curves(loss, test_accuracy):
    return {"curves": {"loss": loss, "test_accuracy": test_accuracy}}


CURVES = curves([[1.0, 0.5], [3.0, 0.5]], [[0.5, 0.25], [0.5, 0.25]])


def test_curves_are_means_over_the_seeds_and_rows_above_mark_divergence(drawn, tmp_path):
    nag = {"name": "nag", "label": "NAG", "best": 0, "trials": [trial(0.1), trial(1.0, diverged=True)]}
    lost = {"name": "sgd", "label": "GD", "best": None, "trials": [trial(1.0, diverged=True)]}
    nag["chosen"], lost["chosen"] = CURVES, None
    draw_data([nag, lost], np.array([10, 20]), 10, "a title", tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    loss, error, sensitivity, cross, best, other = drawn
    assert loss == ([1.0, 2.0], [2.0, 0.5]) and error == ([1.0, 2.0], [50.0, 75.0])
    assert sensitivity == ([0.1], [0.2]) and best == ([0.1], [0.2])
    assert cross[0] == other[0] == [1.0] and cross[1] > other[1]


def test_a_loss_of_zero_has_its_place_on_the_logarithmic_axis(drawn, unsaved, tmp_path):
    zero = trial(0.1) | {"validation_loss": [0.0, 0.0]}
    draw_data(
        [{"name": "muon", "label": "Muon", "best": 0, "trials": [zero, trial(1.0)], "chosen": CURVES}],
        np.array([10, 20]),
        10,
        "a title",
        tmp_path / "a.png",
    )
    assert drawn[2] == ([0.1, 1.0], [1e-8, 0.2])


def test_long_curves_are_thinned_to_means_of_neighbours_and_end_at_the_last(drawn, unsaved, tmp_path):
    long = curves([list(range(1, 91))], [[0.5] * 90])
    result = {"name": "nag", "label": "NAG", "best": 0, "trials": [trial(0.1)], "chosen": long}
    draw_data([result], np.arange(1, 91), 1, "a title", tmp_path / "a.png")
    # Means of four, the 89th alone, and the last.
    assert drawn[0][0] == drawn[0][1] == [*np.arange(2.5, 88, 4), 89.0, 90.0]


def test_a_single_evaluation_is_seen(saved, tmp_path):
    short = curves([[0.7], [0.8]], [[0.9], [0.8]])
    result = {"name": "nag", "label": "NAG", "best": 0, "trials": [trial(0.1)], "chosen": short}
    draw_data([result], np.array([7]), 7, "a", tmp_path / "a")
    for title, value in (("loss while training", 0.75), ("test error in %", 15.0)):
        (line,) = saved[0][title].get_lines()
        assert line.get_marker() == "o"
        np.testing.assert_allclose(line.get_xydata(), [[1.0, value]])


def landscape_of(problem):
    return problem.objective, problem.start, problem.solution


def test_paths_of_a_problem(drawn, tmp_path):
    path = [[1.0, 0.3], [0.5, 0.1], [0.0, 0.0]]
    kept = {"learning_rate": 0.1, "diverged": False, "gap": [4.0, 2.0, 0.0], "path": path}
    kept["steps_to_gap"] = {"0.001": 2, "1e-06": 2}
    lost = {"learning_rate": 0.4, "diverged": True, "gap": [4.0, None], "path": path}
    lost["steps_to_gap"] = {"0.001": None, "1e-06": None}
    results = [{"name": "nag", "label": "NAG", "best": 0, "trials": [kept, lost]}]
    draw_problem(*landscape_of(make_problem("quadratic")), results, "a title", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert ([1.0, 0.5, 0.0], [0.3, 0.1, 0.0]) in drawn
    assert ([0.0, 1.0, 2.0], [1.0, 0.5, 0.0]) in drawn
    *_, steps, lost_mark, ring = drawn
    assert steps == ring == ([0.1], [2.0]) and lost_mark[0] == [0.4]


@pytest.mark.exhaustive
def test_the_panels_of_the_paths_hold_all_of_them_and_the_gap_no_empty_decades(saved, tmp_path):
    far = [[0.0, 0.0], [-15.9, -17.2], [0.5, -4.0]]
    trial = {"learning_rate": 0.1, "diverged": False, "gap": [4.0, 8.0, 4e-3], "path": far}
    trial["steps_to_gap"] = {"1e-06": None}
    results = [{"name": "nag", "label": "NAG", "best": 0, "trials": [trial]}]
    problem = make_problem("logistic")
    draw_problem(*landscape_of(problem), results, "a title", tmp_path / "a.png")
    exact = trial | {"gap": [4.0, 4e-20, 0.0]}
    draw_problem(*landscape_of(problem), [{**results[0], "trials": [exact]}], "a title", tmp_path / "a.png")
    ((left, right), (bottom, top)) = saved[0]["NAG"].get_xlim(), saved[0]["NAG"].get_ylim()
    for x, y in [*far, problem.solution]:
        assert left < x < right and bottom < y < top
    gaps = [panels["gap to the minimum, as a share of that at the start"] for panels in saved]
    assert 1e-4 < gaps[0].get_ylim()[0] < 1e-3 and gaps[1].get_ylim()[0] == 1e-12


def test_an_optimizer_that_does_not_get_there_has_its_row_and_a_ring_on_the_best(drawn, unsaved, tmp_path):
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
    draw_problem(*landscape_of(make_problem("quadratic")), results, "a title", tmp_path / "a.png")
    *_, first, first_ring, second, second_ring = drawn
    assert first[0] == second[0] == [0.1, 0.2] and first_ring[0] == second_ring[0] == [0.2]
    assert first[1][0] == first_ring[1][0] > second[1][0] == second_ring[1][0]


@pytest.mark.parametrize("count", [1, 4, 5, 8])
def test_every_column_of_paths_has_its_numbers(count, unsaved, tmp_path, monkeypatch):
    ticked = []
    monkeypatch.setattr(
        matplotlib.axes.Axes, "tick_params", lambda axes, **kwargs: ticked.append((axes.get_title(), kwargs))
    )
    trial = {"learning_rate": 0.1, "diverged": False, "gap": [4.0], "path": [[1.0, 0.3]]}
    trial["steps_to_gap"] = {"1e-06": 1}
    results = [{"name": "nag", "label": str(i), "best": 0, "trials": [trial]} for i in range(count)]
    draw_problem(*landscape_of(make_problem("quadratic")), results, "a title", tmp_path / "a.png")
    columns = [str(i) for i in range(max(0, count - 4), count)]
    assert [title for title, kwargs in ticked if kwargs == {"labelbottom": True}] == columns
