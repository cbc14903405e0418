"""The folder of a run: its files, and what may be done to a folder that holds some already."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from nag_optax.train.config import TrainConfig, load_config
from nag_optax.train.errors import InputError

CONFIG, METRICS, SUMMARY, CURVES, CHECKPOINTS = (
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "curves.png",
    "checkpoints",
)


def with_stored_options(config: TrainConfig, given: set[str]) -> TrainConfig:
    """On --resume: the configuration that the folder holds, with the options given on top.

    So `--resume --run-dir DIR` is enough, and an option that contradicts the folder is found out.
    """
    if not config.resume or config.run_dir is None or not (config.run_dir / CONFIG).exists():
        return config
    stored = load_config(config.run_dir / CONFIG)
    return dataclasses.replace(stored, **{name: getattr(config, name) for name in given})


def check_folder(config: TrainConfig) -> None:
    """Refuses to mix two runs, or to overwrite one, unless asked to."""
    folder = config.run_dir
    assert folder is not None
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--run-dir {folder}: is a file; name a folder")
    if config.overwrite and config.resume:
        raise InputError("--overwrite: goes without --resume; name one of the two")
    if config.overwrite or not folder.exists():
        return
    if not config.resume:
        if any(folder.iterdir()):
            raise InputError(
                f"--run-dir {folder}: is not empty; --resume continues its run, --overwrite replaces it, "
                "or name another folder"
            )
        return
    if (folder / CONFIG).exists():
        differences = load_config(folder / CONFIG).differences(config)
        if differences:
            raise InputError(
                f"--run-dir {folder}: holds a run with another configuration: {'; '.join(differences)}; "
                "name another folder"
            )


def remove_run(folder: Path) -> None:
    """Removes what a run writes, and nothing else that may lie in the folder."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    for name in (CONFIG, METRICS, SUMMARY, CURVES):
        (folder / name).unlink(missing_ok=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`; a line cut short by a kill ends them."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def read_summary(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def write_text(path: Path, text: str) -> None:
    """Complete or not at all, whenever the process is killed."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
