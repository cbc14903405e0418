"""The benchmark of the start: what it says of each process is so."""

import json

import pytest

from benchmarks import startup
from benchmarks.render import RESULTS


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("import nag_optax", []),
        ("nag-optax --help", []),
        ("from nag_optax import nag", ["jax", "optax"]),
    ],
)
def test_what_is_loaded(name: str, modules: list[str]):
    assert startup.loaded(startup.PROGRAMS[name]) == modules


def test_the_committed_result():
    result = json.loads((RESULTS / "startup.json").read_text())
    assert list(result["processes"]) == list(startup.PROGRAMS)
    assert result["processes"]["nag-optax --help"]["milliseconds"] < 300
    rows = startup.rows(result)
    assert [row[0] for row in rows] == list(startup.PROGRAMS)
    numbers = result["processes"]["python"]["milliseconds"]
    assert rows[0][1:3] == ("", f"{numbers:.0f}")


def test_a_bad_option_is_one_line(capsys):
    with pytest.raises(SystemExit) as exited:
        startup.main(["--repeats", "0"])
    assert exited.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
