"""The figure of a run: both splits drawn, with and without a test split."""

import matplotlib.axes
import pytest

from nag_optax.train.figures import draw_curves


def rows(count: int, test: bool):
    return [
        {
            "epoch": i + 1,
            "train_loss": 1.0 / (i + 1),
            "train_accuracy": 0.9,
            "test_loss": 0.5 if test else None,
            "test_accuracy": 0.8 if test else None,
        }
        for i in range(count)
    ]


@pytest.mark.parametrize(("count", "test", "lines"), [(1, True, 4), (40, True, 4), (3, False, 2)])
def test_every_curve_is_drawn(tmp_path, monkeypatch, count, test, lines):
    drawn, plot = [], matplotlib.axes.Axes.plot

    def recorded(axes, x, y, *args, **kwargs):
        drawn.append(list(y))
        return plot(axes, x, y, *args, **kwargs)

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", recorded)
    draw_curves(rows(count, test), "a run", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    assert len(drawn) == lines and drawn[0] == [1.0 / (i + 1) for i in range(count)]
