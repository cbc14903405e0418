"""The figures: what is drawn, read back from the Axes."""

import itertools
import re

import numpy as np
import pytest
from matplotlib import colors as mcolors
from matplotlib.figure import Figure

from nag_optax import plot
from nag_optax.plot.contours import landscape
from nag_optax.plot.style import GREY, PALETTE, colors_of, save

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


def bowl(x):
    return (x[0] - 1) ** 2 + 4 * x[1] ** 2


# What a reader without the cones for red, green or blue sees of linear RGB: Machado, Oliveira and
# Fernandes, A physiologically-based model for simulation of color vision deficiency, 2009, severity 1.
DEFICIENCIES = {
    "protanopia": "0.152286 1.052583 -0.204868 0.114503 0.786281 0.099216 -0.003882 -0.048116 1.051998",
    "deuteranopia": "0.367322 0.860646 -0.227968 0.280085 0.672501 0.047413 -0.011820 0.042940 0.968881",
    "tritanopia": "1.255528 -0.076749 -0.178779 -0.078411 0.930809 0.147602 0.004733 0.691367 0.303900",
}
TO_XYZ = "0.4124564 0.3575761 0.1804375 0.2126729 0.7151522 0.0721750 0.0193339 0.1191920 0.9503041"


def matrix(numbers):
    return np.array(numbers.split(), float).reshape(3, 3)


def lab(linear):
    """CIE L*a*b* of linear sRGB, white D65."""
    xyz = matrix(TO_XYZ) @ np.clip(linear, 0, 1) / [0.95047, 1.0, 1.08883]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def linear_rgb(color):
    srgb = np.array(mcolors.to_rgb(color))
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("deficiency", [None, *DEFICIENCIES])
def test_colour_blind_readers_tell_the_palette_apart(deficiency):
    """In CIE L*a*b* a distance of 2.3 is just seen; white is the paper."""
    seen = np.eye(3) if deficiency is None else matrix(DEFICIENCIES[deficiency])
    shades = [lab(seen @ linear_rgb(color)) for color in (*PALETTE, "white")]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(shades, 2)) > 15


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


def test_contours_are_of_the_logarithm_of_the_gap():
    ground = landscape(lambda x: bowl(x) + 7.0, (-1, 3), (-2, 2), (1, 0))
    x, y = np.meshgrid(ground.x, ground.y)
    gap = np.maximum((x - 1) ** 2 + 4 * y**2, 1e-6 * 20)
    # In float32, with the constant.
    np.testing.assert_allclose(10**ground.heights, gap, rtol=1e-4, atol=1e-4)
    assert (ground.x[0], ground.x[-1], ground.y[0], ground.y[-1]) == (-1, 3, -2, 2)


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
