"""The page on devices: its commands, one after the other, in an environment that has what the page says."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from nag_optax.cli import run

PAGE = Path(__file__).parents[2] / "docs" / "device.md"


@pytest.mark.exhaustive
def test_the_commands_of_the_page_fine_tune_the_digits_cnn(
    fresh: Callable, monkeypatch, tmp_path: Path, capsys
):
    monkeypatch.chdir(tmp_path)
    printed, page = [], PAGE.read_text()
    for language, code in re.findall(r"^```(bash|python)\n(.*?)^```$", page, re.S | re.M):
        if language == "python":
            if "mine.npz" in code:
                exec(code, {})
            continue
        for words in map(shlex.split, code.replace("\\\n", "").splitlines()):
            if words[0] == "nag-optax":
                assert run(words[1:]) == 0
            elif words[0] == "python":
                process = fresh(*words[1:])
                output, errors = process.communicate(timeout=300)
                assert process.returncode == 0, errors
                printed.append(output)
    before, _, after, table = printed
    found = [float(text.removeprefix("accuracy ").split(" of 1497 ")[0]) for text in (before, after)]
    # What the page says: a guess before, and about 85 %.
    assert found[0] < 0.2 and found[1] == pytest.approx(0.85, abs=0.05)
    assert table.startswith("class,0,1") and table.count("\n") == 2
    listed = set(re.findall(r"`([\w.]+)`", page[page.index("| file |") : page.index("`--freeze` makes")]))
    assert listed >= {path.name for path in Path("runs/digits/export").iterdir()} - {"trained.npz"}
