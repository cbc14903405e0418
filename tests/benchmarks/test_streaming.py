"""The benchmark of streaming: a loader answers with its own time, and a ratio is one of a round."""

import io
import json
from pathlib import Path

from benchmarks import render, streaming


def test_what_was_read_ahead_is_not_timed(monkeypatch, capsys):
    calls, clock = [], iter(range(100))
    monkeypatch.setattr("sys.stdin", io.StringIO("3\n1\n"))
    monkeypatch.setattr(streaming.time, "perf_counter", lambda: calls.append("clock") or next(clock))
    monkeypatch.setitem(streaming.LOADERS, "ours", lambda folder, workers: lambda: calls.append("batch"))
    streaming.serve("ours", Path(), 2)
    parts = " ".join(calls).split("clock")
    assert [part.split().count("batch") for part in parts] == [streaming.READY, 3, streaming.READY, 1, 0]
    assert capsys.readouterr().out == "1\n1\n"


def test_a_ratio_is_one_of_the_same_round(tmp_path: Path):
    speeds = {streaming.OURS: [100.0, 400.0, 300.0], streaming.TORCH: [100.0, 200.0, 100.0]}
    result = json.loads((render.RESULTS / "nadam.json").read_text())
    result |= {"workers": {"2": speeds}, "batches": 100, "repeats": 3}
    ours, torch = streaming.rows(result)
    assert ours == ("2", "nag_optax", "300", "200 to 350", "")
    assert torch[2:] == ("100", "100 to 150", "2.00")
    path = tmp_path / "streaming.json"
    path.write_text(json.dumps(result))
    assert "--workers 2 --batches 100" in render.section(path).replace(" \\\n   ", "")


def test_the_share_of_waiting_is_one_of_the_time_of_the_steps(tmp_path: Path):
    result = json.loads((render.RESULTS / "nadam.json").read_text())
    result |= {"model": "cnn", "steps": 2, "workers": 3, "seconds": 4.0, "waiting_seconds": 0.01}
    path = tmp_path / "streaming-training.json"
    path.write_text(json.dumps(result))
    section = render.section(path)
    assert "took 2000 ms each and waited for pictures in 0.25 % of that time. 3 workers" in section
    assert "--workers 3 --train 2" in section.replace(" \\\n   ", "")
