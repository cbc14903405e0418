"""The figure of a run: both splits drawn, with and without a test split."""

import matplotlib.axes
import pytest

from nag_optax.train.curves import draw_curves


def rows(count: int, test: bool, validation: bool = False):
    return [
        {
            "epoch": i + 1,
            "train_loss": 1.0 / (i + 1),
            "train_accuracy": 0.9,
            "validation_loss": 0.6 if validation else None,
            "validation_accuracy": 0.7 if validation else None,
            "test_loss": 0.5 if test else None,
            "test_accuracy": 0.8 if test else None,
        }
        for i in range(count)
    ]


@pytest.fixture
def saved(monkeypatch):
    """The figures, as they are saved."""
    figures = []
    monkeypatch.setattr("nag_optax.plot.style.save", lambda figure, *_, **__: figures.append(figure))
    return figures


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_epochs_are_whole_numbers(tmp_path, saved, count):
    draw_curves(rows(count, test=True), "a run", tmp_path / "curves.png")
    for axes in saved[0].axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == round(tick) for tick in ticks)
        assert low < 1 and high > count


def test_the_legend_hides_no_point(tmp_path, saved):
    worse = [
        row | {"train_accuracy": 1 - 0.1 * i, "test_accuracy": 1.0} for i, row in enumerate(rows(6, True))
    ]
    draw_curves(worse, "a run", tmp_path / "curves.png")
    saved[0].draw_without_rendering()
    accuracy = saved[0].axes[1]
    box = accuracy.get_legend().get_window_extent()
    points = [accuracy.transData.transform(line.get_xydata()) for line in accuracy.get_lines()]
    assert [len(p) for p in points] == [6, 6] and not any(box.contains(*xy) for p in points for xy in p)


@pytest.mark.parametrize(
    ("count", "test", "validation", "lines"),
    [(1, True, False, 4), (40, True, True, 6), (3, False, False, 2), (3, False, True, 4)],
)
def test_every_curve_is_drawn(tmp_path, monkeypatch, count, test, validation, lines):
    drawn, plot = [], matplotlib.axes.Axes.plot

    def recorded(axes, x, y, *args, **kwargs):
        drawn.append(list(y))
        return plot(axes, x, y, *args, **kwargs)

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", recorded)
    draw_curves(rows(count, test, validation), "a run", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    assert len(drawn) == lines and drawn[0] == [1.0 / (i + 1) for i in range(count)]
