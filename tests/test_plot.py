"""The figures, read back from their Axes."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from nag_optax import plot
from nag_optax.plot.contours import landscape
from nag_optax.plot.style import GREY, PALETTE, colors_of, log_ticks, save
from tests.vision import DEFICIENCIES, lab, linear_rgb, smallest_distance

STEPS = np.arange(1.0, 6.0)


@pytest.fixture
def axes():
    """Without pyplot, which would keep the figure."""
    return Figure().subplots()


def line(axes, label):
    (found,) = [line for line in axes.get_lines() if line.get_label() == label]
    return found


def texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def assert_labels_apart(axes):
    """None of those below the axis is printed over another."""
    axes.figure.draw_without_rendering()
    labels = [label for label in axes.get_xticklabels(which="both") if label.get_text()]
    assert len(labels) > 1
    # A turned label is as wide as its line is high: its anchor tells.
    places = np.array([label.get_transform().transform(label.get_position())[0] for label in labels])
    boxes = [label.get_window_extent() for label in labels]
    turned = labels[0].get_rotation() > 0
    needed = [1.2 * labels[0].get_fontsize() * axes.figure.dpi / 72 if turned else box.width for box in boxes]
    order = np.argsort(places)
    gaps = np.diff(places[order])
    assert (gaps >= (np.array(needed)[order][1:] + np.array(needed)[order][:-1]) / 2).all()


def bowl(x):
    return (x[0] - 1) ** 2 + 4 * x[1] ** 2


@pytest.mark.parametrize("deficiency", [None, *DEFICIENCIES])
def test_colour_blind_readers_tell_the_palette_apart(deficiency):
    """In CIE L*a*b* a distance of 2.3 is just seen; white is the paper."""
    assert smallest_distance([*PALETTE, "white"], deficiency) > 15


def test_colours_given_are_kept_and_not_used_twice():
    chosen = colors_of(["a", "b", "c"], {"b": PALETTE[0]})
    assert chosen == {"a": PALETTE[1], "b": PALETTE[0], "c": PALETTE[2]}
    with pytest.raises(ValueError, match="9 of 9 names have none, and the palette has 8 left"):
        colors_of("abcdefghi")
    assert len(set(colors_of("abcdefghi", {"i": "red"}).values())) == 9


def test_a_figure_appears_complete_or_not_at_all(tmp_path, axes):
    class Failing:
        def savefig(self, path, **_):
            path.write_bytes(b"half")
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        save(Failing(), tmp_path / "a.png", dpi=20)
    assert not (tmp_path / "a.png").exists()
    save(axes.figure, tmp_path / "b.png", dpi=20)
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_trajectories_draw_each_path_from_start_to_end(axes):
    path = np.array([[0.0, 1.0], [0.5, -0.5], [0.9, 0.1]])
    other = np.array([[0.0, 1.0], [0.2, 0.7]])
    drawn = plot.trajectories(bowl, {"one": path, "two": other}, minimum=(1, 0), ax=axes)
    assert drawn is axes
    assert texts(axes) == ["minimum", "one", "two"]
    np.testing.assert_array_equal(line(axes, "one").get_xydata(), path)
    np.testing.assert_array_equal(line(axes, "two").get_xydata(), other)
    np.testing.assert_array_equal(line(axes, "minimum").get_xydata(), [[1, 0]])
    assert line(axes, "one").get_color() != line(axes, "two").get_color()
    # The one below is wider, so that it is seen where they overlap.
    assert line(axes, "one").get_linewidth() > line(axes, "two").get_linewidth()
    ends = [item.get_xydata()[0].tolist() for item in axes.get_lines() if item.get_marker() == "s"]
    assert ends == [path[-1].tolist(), other[-1].tolist()]
    assert len([item for item in axes.get_lines() if item.get_color() == "white"]) == 2
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x[0]", "x[1]")
    # 15 % around [0, 1] × [−0.5, 1].
    np.testing.assert_allclose([axes.get_xlim(), axes.get_ylim()], [[-0.15, 1.15], [-0.725, 1.225]])


def test_limits_are_those_given(axes):
    plot.trajectories(bowl, {"one": [[0.0, 1.0]]}, limits=((-3, 3), (-2, 2)), colors={"one": GREY}, ax=axes)
    assert (axes.get_xlim(), axes.get_ylim()) == ((-3, 3), (-2, 2))
    assert line(axes, "one").get_color() == GREY and texts(axes) == ["one"]


def test_limits_hold_what_has_no_extent(axes):
    plot.trajectories(bowl, {"point": [[2.0, 1.0]]}, ax=axes)
    np.testing.assert_allclose([axes.get_xlim(), axes.get_ylim()], [[1, 3], [0, 2]])
    axes.clear()
    plot.trajectories(bowl, {"along x": [[0.0, 1.0], [2.0, 1.0]]}, ax=axes)
    np.testing.assert_allclose([axes.get_xlim(), axes.get_ylim()], [[-0.3, 2.3], [0.9, 1.1]])


def test_a_path_that_diverges_ends_before(axes):
    path = [[0.0, 1.0], [1.0, 2.0], [np.inf, 0.0], [3.0, 3.0]]
    plot.trajectories(bowl, {"lost": path}, ax=axes)
    np.testing.assert_array_equal(line(axes, "lost").get_xydata(), path[:2])


def test_a_path_that_rises_does_not_shrink_the_others(axes):
    path = [[0.0, 1.0], [0.5, -0.5], [0.9, 0.1]]
    lost = [[0.0, 1.0], [-0.2, 1.1], [-3e8, 1e9]]
    plot.trajectories(bowl, {"falls": path, "rises": lost}, minimum=(1, 0), ax=axes)
    # 30 % around [0, 1] × [−0.5, 1], where the path goes on, and then the margin.
    np.testing.assert_allclose([axes.get_xlim(), axes.get_ylim()], [[-0.495, 1.195], [-0.7925, 1.7425]])
    np.testing.assert_array_equal(line(axes, "rises").get_xydata(), lost)
    axes.clear()
    plot.trajectories(bowl, {"rises": lost}, minimum=(1, 0), ax=axes)
    np.testing.assert_allclose([axes.get_xlim(), axes.get_ylim()], [[-0.495, 1.195], [-0.195, 1.495]])


def test_many_paths_get_narrower_from_below_and_none_hides_the_landscape(axes):
    plot.trajectories(bowl, {str(i): [[0.0, 1.0], [0.5, 0.1 * i]] for i in range(8)}, ax=axes)
    widths = [line(axes, str(i)).get_linewidth() for i in range(8)]
    assert widths == sorted(set(widths), reverse=True) and widths[0] < 6


def test_contours_are_of_the_logarithm_of_the_gap():
    ground = landscape(lambda x: bowl(x) + 7.0, (-1, 3), (-2, 2), (1, 0))
    x, y = np.meshgrid(ground.x, ground.y)
    gap = np.maximum((x - 1) ** 2 + 4 * y**2, 1e-6 * 20)
    # In float32, with the constant.
    np.testing.assert_allclose(10**ground.heights, gap, rtol=1e-4, atol=1e-4)
    assert (ground.x[0], ground.x[-1], ground.y[0], ground.y[-1]) == (-1, 3, -2, 2)


def test_contours_end_where_the_objective_does():
    """One point of the grid outside of the domain, or an overflow, would take all contours away."""
    ground = landscape(lambda x: jnp.log(x[0]) + jnp.exp(100 * x[1]), (-1, 2), (-1, 1))
    inside = (ground.x > 0) & (ground.y < 0.8)[:, None]
    outside = (ground.x <= 0) | (ground.y > 0.9)[:, None]
    assert np.isfinite(ground.heights[inside]).all()
    assert np.isnan(ground.heights[outside]).all()


def test_a_bound_is_dashed_in_the_colour_of_its_curve(axes):
    curves = {"slow": 1 / STEPS, "fast": 1 / STEPS**2}
    drawn = plot.convergence(curves, {"fast": 2 / STEPS**2}, ax=axes)
    assert drawn is axes and axes.get_yscale() == "log" and axes.get_xscale() == "linear"
    slow, fast, bound = axes.get_lines()
    for item, values in ((slow, 1 / STEPS), (fast, 1 / STEPS**2), (bound, 2 / STEPS**2)):
        np.testing.assert_array_equal(item.get_xydata(), np.stack([np.arange(5), values], 1))
    assert [item.get_linestyle() for item in (slow, fast, bound)] == ["-", "-", "--"]
    assert bound.get_color() == fast.get_color() != slow.get_color()
    assert texts(axes) == ["slow", "fast", "proven bound"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "f(x) − f*")


def test_runs_are_drawn_as_mean_and_range(axes):
    runs = np.array([[1.0, 0.5], [3.0, 0.1]])
    plot.convergence({"runs": runs}, steps=[10, 20], log_steps=True, ylabel="loss", ax=axes)
    np.testing.assert_allclose(line(axes, "runs").get_xydata(), [[10, 2.0], [20, 0.3]])
    (band,) = axes.collections
    corners = {(x, y) for x, y in band.get_paths()[0].vertices.tolist()}
    assert corners == {(10, 1), (10, 3), (20, 0.1), (20, 0.5)}
    assert axes.get_xscale() == "log" and texts(axes) == ["runs"] and axes.get_ylabel() == "loss"


def test_a_single_value_is_seen(axes):
    curves = {"one": [2.0], "then lost": [3.0, np.nan], "two": [3.0, 1.0]}
    plot.convergence(curves, {"one": [4.0]}, ax=axes)
    *drawn, bound = axes.get_lines()
    assert [item.get_marker() for item in drawn] == ["o", "o", "None"] and bound.get_marker() == "_"
    axes.clear()
    plot.regularization_path([1.0], [[2.0]], ["a"], ax=axes)
    assert line(axes, "a").get_marker() == "o"


@pytest.mark.parametrize(
    ("rates", "turned"),
    [
        ([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3], False),
        (np.logspace(-4, 1, 8), True),
        (np.logspace(-4, 1, 16), True),
        (np.logspace(-4, 1, 40), True),
    ],
)
def test_the_learning_rates_are_not_printed_over_each_other(rates, turned):
    axes = Figure(figsize=(6.0, 3.8), layout="constrained").subplots()
    count = len(rates)
    plot.sensitivity(rates, [0.9], np.ones((1, count)), ax=axes)
    assert_labels_apart(axes)
    assert (axes.get_xticklabels()[0].get_rotation() > 0) == turned
    labels = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert all(label.get_text() == f"{rates[int(tick)]:.3g}" for tick, label in labels)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (1e-4, 3.0, ["$10^{-4}$", "$10^{-3}$", "$10^{-2}$", "$10^{-1}$", "$10^{0}$"]),
        (1e-3, 0.2, ["$10^{-3}$", "$10^{-2}$", "$10^{-1}$"]),
        (6e-5, 4.9e-3, ["0.0001", "0.0002", "0.0005", "0.001", "0.002"]),
        (1e-3, 9e-3, ["0.001", "0.002", "0.005"]),
        (1.5e-3, 0.09, ["0.002", "0.005", "0.01", "0.02", "0.05"]),
        (0.0025, 0.0049, ["0.003", "0.004"]),
        (0.1234, 0.1251, ["0.1235", "0.124", "0.1245", "0.125"]),
        (1e-8, 1e32, [f"$10^{{{exponent}}}$" for exponent in range(-6, 33, 6)]),
    ],
)
def test_the_labels_of_a_logarithmic_axis(low, high, labels):
    axes = Figure(figsize=(4.7, 3)).subplots()  # as wide as a panel of a comparison
    axes.set(xscale="log", xlim=(low, high))
    log_ticks(axes.xaxis, low, high)
    assert [label.get_text() for label in axes.get_xticklabels()] == labels
    assert_labels_apart(axes)
    assert len(axes.get_xticks(minor=True)) < 60


def test_sensitivity_marks_the_best_and_what_diverged(axes):
    losses = np.array([[0.9, 0.5, 0.2], [0.6, 0.1, np.nan]])
    assert plot.sensitivity([0.01, 0.1, 1.0], [0.0, 0.9], losses, label="loss", ax=axes) is axes
    (mesh,) = axes.collections
    np.testing.assert_array_equal(np.ma.getmaskarray(mesh.get_array()), np.isnan(losses))
    np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), np.nan), losses)
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0.1, 0.9) and type(mesh.norm).__name__ == "LogNorm"
    np.testing.assert_array_equal(line(axes, "best").get_xydata(), [[1, 1]])
    np.testing.assert_array_equal(line(axes, "diverged").get_xydata(), [[2, 1]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.01", "0.1", "1"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "0.9"]
    (bar,) = [other for other in axes.figure.axes if other is not axes]
    assert bar.get_ylabel() == "loss" and axes.get_ylabel() == "momentum"
    # The lightness falls with the loss, for every reader.
    lightness = [lab(linear_rgb(mesh.cmap(value)))[0] for value in (0.0, 0.5, 1.0)]
    assert lightness == sorted(lightness) and lightness[2] - lightness[0] > 50


def test_regularization_path(axes):
    coefficients = np.arange(30.0).reshape(3, 10)
    names = [f"x{i}" for i in range(10)]
    drawn = plot.regularization_path([0.1, 1, 10], coefficients, names, marks={"chosen": 0.5}, ax=axes)
    assert drawn is axes and axes.get_xscale() == "log" and texts(axes) == [*names, "chosen"]
    for i, name in enumerate(names):
        expected = np.stack([[0.1, 1, 10], coefficients[:, i]], 1)
        np.testing.assert_array_equal(line(axes, name).get_xydata(), expected)
    styles = {(line(axes, name).get_color(), line(axes, name).get_linestyle()) for name in names}
    assert len(styles) == 10
    assert list(line(axes, "chosen").get_xdata()) == [0.5, 0.5]
    axes.clear()
    plot.regularization_path([0.1, 1], np.ones((2, 1)), ["a"], marks=dict.fromkeys("wxyz", 0.5), ax=axes)
    assert len({line(axes, name)._unscaled_dash_pattern for name in "wxyz"}) == 4
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("strength of the penalty", "coefficient")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda ax: plot.trajectories(bowl, {}, ax=ax), "paths must hold at least one path; got none"),
        (
            lambda ax: plot.trajectories(bowl, {"a": np.ones((4, 3))}, ax=ax),
            "paths: 'a' must be of shape (steps, 2); got (4, 3)",
        ),
        (
            lambda ax: plot.trajectories(bowl, {"a": [[np.nan, 0.0]]}, ax=ax),
            "paths: 'a' must start at a finite point",
        ),
        (lambda ax: plot.convergence({}, ax=ax), "curves must hold at least one curve; got none"),
        (
            lambda ax: plot.convergence({"a": STEPS}, {"b": STEPS}, ax=ax),
            "bounds: 'b' is not among the curves 'a'",
        ),
        (
            lambda ax: plot.convergence({"a": STEPS}, {"a": np.ones((2, 5))}, ax=ax),
            "bounds: 'a' must be of shape (steps,); got (2, 5)",
        ),
        (
            lambda ax: plot.convergence({"a": 1.0}, ax=ax),
            "curves: 'a' must be of shape (steps,) or (runs, steps); got ()",
        ),
        (
            lambda ax: plot.convergence({"a": STEPS}, steps=[1, 2], ax=ax),
            "curves: 'a' has 5 values for 2 steps",
        ),
        (
            lambda ax: plot.sensitivity([0.1, 1.0], [0.9], np.ones((2, 1)), ax=ax),
            "losses must be of shape (momenta, learning rates) = (1, 2); got (2, 1)",
        ),
        (
            lambda ax: plot.sensitivity([0.1], [0.9], [[np.inf]], ax=ax),
            "losses must have a finite value; all diverged",
        ),
        (
            lambda ax: plot.sensitivity([0.1, 1.0], [0.9], [[1.0, 0.0]], ax=ax),
            "losses must be positive; got 0",
        ),
        (
            lambda ax: plot.regularization_path([1.0], np.ones((1, 2)), ["a"], ax=ax),
            "coefficients must be of shape (strengths, names) = (1, 1); got (1, 2)",
        ),
        (
            lambda ax: plot.regularization_path([1.0], np.ones((1, 17)), list(map(str, range(17))), ax=ax),
            "names: at most 16 lines can be told apart; got 17",
        ),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_drawn(axes, draw, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        draw(axes)
    assert not axes.get_lines() and not axes.collections


@pytest.mark.parametrize(
    ("draw", "arguments", "message"),
    [
        (plot.trajectories, (abs, np.ones((3, 2))), "paths must be a mapping .*got ndarray"),
        (plot.convergence, ([1.0, 2.0],), "curves must be a mapping .*got list"),
        (plot.convergence, ({"a": [1.0]}, [1.0]), "bounds must be a mapping .*got list"),
        (plot.convergence, ({"a": [1.0]}, {"a": "x"}), "^bounds: 'a' must be an array of numbers; got str"),
        (
            plot.convergence,
            ({"a": [[1.0], [1.0, 2.0]]},),
            "^curves: 'a' must be an array of numbers; got list",
        ),
        (lambda steps: plot.convergence({"a": [1.0]}, steps=steps), (["x"],), "^steps must be an array"),
        (plot.trajectories, (abs, {"a": "x"}), "^paths: 'a' must be an array of numbers; got str"),
        (plot.sensitivity, ([0.1], ["x"], [[1.0]]), "^momenta must be an array of numbers; got list"),
        (plot.sensitivity, ([0.1], [0.9], {}), "^losses must be an array of numbers; got dict"),
        (plot.regularization_path, (["x"], [[1.0]], ["a"]), "^strengths must be an array of numbers"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(draw, arguments, message):
    with pytest.raises(TypeError, match=message):
        draw(*arguments)


def test_a_new_figure_is_made_where_no_axes_are_given():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    first, second = (plot.convergence({"a": STEPS}) for _ in range(2))
    try:
        assert first.figure is not second.figure and pyplot.gca() is second
    finally:
        for number in set(pyplot.get_fignums()) - set(before):
            pyplot.close(number)
