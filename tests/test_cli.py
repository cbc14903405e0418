"""The command itself: exit codes, one line for each mistake, a run that is killed and goes on."""

import dataclasses
import inspect
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nag_optax.cli import _cache_folder, _keep_programs, main, parse, parse_over, run
from nag_optax.compare.spec import CompareOptions
from nag_optax.parallel.options import ServeOptions
from nag_optax.train.options import EvaluateOptions, ExportOptions, Options, PredictOptions
from nag_optax.train.registry import OPTIMIZERS, RECIPES
from nag_optax.train.spec import resolve
from tests.helpers import eventually


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "nag_optax.cli", *map(str, arguments)]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("train --optimizer lion", "--optimizer lion: must be one of nag, sgd, momentum, adam, adamw"),
        ("train --model vgg", "--model vgg: must be one of mlp, cnn"),
        ("train --learning-rate nan", "--learning-rate nan: must be a finite float32 above 0"),
        ("train --momentum 1", "--momentum 1.0: must be a float32 in [0, 1)"),
        ("train --momentum=1", "--momentum 1.0: must be a float32 in [0, 1)"),
        ("train --prune l1=1", "--prune l1=1: must be group_l2=STRENGTH, with STRENGTH a finite float32"),
        ("train --run-dir=", "--run-dir= has no value; see nag-optax train --help"),
        (
            "train --resume",
            "--run-dir runs/digits-cnn-nag-0/config.json: no such file; name the folder of a run",
        ),
        ("compare --optimizers nag lion", "--optimizers nag lion: must be names of nag"),
        ("compare --learning-rates", "--learning-rates : must be auto, or finite"),
        ("compare --learning-rates 0.1 -1", "--learning-rates 0.1 -1.0: must be auto, or finite"),
        ("compare --num-steps 9", "--num-steps 9: is only for --problem"),
        ("compare --resume --run-dir nowhere", "nowhere/config.json: no such file"),
        ("evaluate nowhere", "nowhere/config.json: no such file"),
        ("predict nowhere", "PATH is missing: name pictures, folders of them, or .npy files"),
        ("export nowhere", "nowhere/config.json: no such file"),
        ("export nowhere --freeze head", "--freeze head: is only for --what train-step"),
        ("predict nowhere x.png", "nowhere/config.json: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("nag-optax: ") and line in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("train --batch-size many", ["--batch-size"]),
        ("train --num-epochs 1.5", ["--num-epochs", "1.5"]),
        ("train --learning-rate fast", ["--learning-rate", "fast"]),
        ("train --prune", ["--prune"]),
        ("train --seed", ["--seed"]),
        ("train --resume --freeze", ["--freeze"]),
        ("train --volume 3", ["--volume"]),
        ("train --learning-rte=0.1", ["--learning-rte", "--learning-rate"]),
        ("train --no-resume", ["--no-resume"]),
        ("train --resume yes", ["yes"]),
        ("train fast", ["fast"]),
        ("trian", ["trian", "train, predict, evaluate, export, compare"]),
        ("compare --learning-rates 1 fast", ["--learning-rates", "fast"]),
        ("compare --seeds many", ["--seeds", "many"]),
        ("compare --problem cubic", ["--problem", "cubic", "quadratic", "rosenbrock", "logistic"]),
        ("compare --optimzers nag adam", ["--optimzers", "--optimizers"]),
        ("evaluate", ["RUN_DIR"]),
        ("predict", ["RUN_DIR"]),
        ("evaluate nowhere else", ["else"]),
        ("evaluate nowhere --device toaster", ["--device", "toaster", "auto", "cpu", "gpu", "tpu"]),
        ("--volume 3", ["--volume"]),
    ],
)
def test_what_cannot_be_read_ends_with_code_2_and_names_the_option(
    arguments, names, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(arguments.split())
    captured = capsys.readouterr()
    assert ended.value.code == 2 and captured.out == ""
    assert [name for name in names if name not in captured.err] == []
    assert not list(tmp_path.iterdir())


def test_what_is_given_is_read_by_the_hint_of_its_option():
    def parsed(text: str):
        return parse(text.split())

    assert parsed("train --freeze a,b --freeze c --momentum=0 --run-dir x --classes 0-4 --resume") == Options(
        freeze=("a,b", "c"), momentum=0.0, run_dir=Path("x"), classes="0-4", resume=True
    )
    assert parsed("compare --learning-rates 1 1e-3 --optimizers nag sgd --seed -3") == CompareOptions(
        learning_rates=(1.0, 1e-3), optimizers=("nag", "sgd"), seed=-3
    )
    assert parsed("compare --learning-rates auto").learning_rates == "auto"
    assert parsed("evaluate --device cpu run") == EvaluateOptions(Path("run"), device="cpu")
    assert parsed("predict run a.png b --output c") == PredictOptions(
        Path("run"), (Path("a.png"), Path("b")), Path("c")
    )


def test_an_option_that_contradicts_a_stored_one_says_where_that_stands(tmp_path, capsys):
    (tmp_path / "config.json").write_text(resolve(Options(optimizer="muon", run_dir=tmp_path)).to_json())
    assert run(["train", "--resume", "--run-dir", str(tmp_path), "--optimizer", "adam"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nag-optax: --momentum 0.95: --optimizer adam has none; it is for")
    assert error.endswith(f"; --resume takes all other options from {tmp_path}\n")


def test_options_that_are_given_go_over_those_that_are_stored():
    stored = Options(seed=3, momentum=0.5, low_memory=True, freeze=("a",), run_dir=Path("x"))

    def over(text: str):
        return parse_over(stored, ["train", "--resume", *text.split()])

    resumed = dataclasses.replace(stored, resume=True)
    assert over("") == resumed
    # The whole command again, with --resume. An option that equals its default counts as given.
    assert over("--seed 3 --momentum 0.5 --low-memory --freeze a --run-dir x") == resumed
    assert over("--seed 0 --freeze b") == dataclasses.replace(resumed, seed=0, freeze=("b",))
    compared = CompareOptions(optimizers=("nag", "sgd"), learning_rates=(0.1,))
    assert parse_over(compared, ["compare", "--optimizers", "adam"]) == dataclasses.replace(
        compared, optimizers=("adam",)
    )


def test_help_names_every_command_option_and_default(capsys):
    for arguments in ([], ["--help"]):
        with pytest.raises(SystemExit) as exited:
            run(arguments)
        assert exited.value.code == 0
        text = capsys.readouterr().out
        assert "train" in text and "evaluate" in text and "compare" in text
    with pytest.raises(SystemExit):
        run(["train", "--help"])
    text = capsys.readouterr().out
    for option in ("--dataset", "--warmup-epochs", "--momentum-schedule", "--resume", "--num-devices"):
        assert option in text
    row = OPTIMIZERS["nag"]
    rates = [row.searched.get(key, row.learning_rate) for key in [*RECIPES, None]]
    cells = r" +\| ".join(["nag", *(re.escape(f"{rate:g}") for rate in rates)])
    assert re.search(rf"\| {cells} +\|\n", text)


@pytest.mark.parametrize("options", [Options, EvaluateOptions, PredictOptions, CompareOptions])
def test_a_line_of_help_ends_only_with_a_sentence(options):
    """The parser keeps the line breaks of these docstrings; elsewhere they would leave half a line empty."""
    texts = re.findall(r'^    """(.*?)"""', inspect.getsource(options), re.M | re.S)
    assert len(texts) >= 3
    for text in texts:
        assert all(line.endswith((".", "?", ":")) for line in text.split("\n")), text


def test_no_command_s_description_is_wider_than_a_terminal():
    """The parser wraps the options, but not this line."""
    kinds = (Options, ServeOptions, CompareOptions, PredictOptions, EvaluateOptions, ExportOptions)
    assert [kind for kind in kinds if len(inspect.getdoc(kind) or "") > 80] == []


def test_version_and_a_missing_extra(capsys, monkeypatch):
    assert run(["--version"]) == 0
    assert re.fullmatch(r"nag-optax \d+\.\d+\.\d+\n", capsys.readouterr().out)
    monkeypatch.setattr("nag_optax.cli._installed", lambda name: name != "flax")
    assert run(["train"]) == 2
    assert "needs flax: install the extra" in capsys.readouterr().err


@pytest.mark.parametrize(("encoding", "dot"), [("utf-8", b"\xc2\xb7"), ("cp932", rb"\xb7")])
def test_every_name_of_a_file_and_every_sign_can_be_printed(encoding, dot, monkeypatch):
    """Windows writes files in an encoding of the country, and Japan's has no middle dot."""
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding))
    monkeypatch.setattr("sys.argv", ["nag-optax", "--version"])
    with pytest.raises(SystemExit):
        main()
    print("digits ·", os.fsdecode(b"caf\xe9"), flush=True)
    assert written.getvalue().endswith(b"digits " + dot + b" caf\xe9\n")


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_imports_neither_jax_nor_flax(command):
    code = (
        "import sys, nag_optax.cli\n"
        f"try: nag_optax.cli.run(['{command}', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'jax', 'flax', 'sklearn', 'numpy'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.exhaustive
def test_a_run_killed_at_any_moment_goes_on_from_its_last_complete_checkpoint(
    tmp_path, standard_promotion, capsys
):
    """SIGKILL, twice, at moments that the clock chooses; then the same end as an unbroken run."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def rows(folder):
        metrics = folder / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return [re.sub(r', "seconds": .*', "", line) for line in lines]

    # The rate is constant, so that the length of a run does not change its beginning.
    options = ["train", "--model", "mlp", "--batch-size", "64", "--schedule", "constant"]
    options += ["--warmup-epochs", "0", "--num-epochs"]
    # Whether programs are read back or compiled anew makes no difference either.
    for resume, kept in (([], "true"), (["--resume"], "false")):
        done = len(rows(broken))
        process = subprocess.Popen(
            command(*options, 100_000, "--run-dir", broken, *resume),
            stdout=subprocess.DEVNULL,
            env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": kept},
        )
        eventually(lambda done=done: len(rows(broken)) > done, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    epochs = str(len(rows(broken)) + 3)
    # In this process, which spares another start.
    assert run([*options, epochs, "--resume", "--run-dir", str(broken)]) == 0
    assert re.search(r"from step (\d+)", capsys.readouterr().out)
    assert run([*options, epochs, "--run-dir", str(whole)]) == 0
    assert rows(broken) == rows(whole) and len(rows(whole)) == int(epochs)
    last = max((whole / "checkpoints").glob("*.json"), key=lambda path: int(path.stem)).stem
    assert (broken / "checkpoints" / f"{last}.json").exists()


def test_a_dry_run_says_what_will_be_trained_and_writes_nothing(tmp_path, capsys, standard_promotion):
    run_dir = tmp_path / "run"
    run_of = ["train", "--model", "mlp", "--num-epochs", "2", "--dry-run", "--run-dir", str(run_dir)]
    # 64 * 128 + 128 + 128 * 10 + 10 parameters; 1437 images make 45 batches of 32, and 1293 make 41.
    for validation, counts, steps in (
        ("0", "1,437 training and 360 test", 90),
        ("0.1", "1,293 training, 144 validation and 360 test", 82),
    ):
        assert run([*run_of, "--validation", validation]) == 0
        assert capsys.readouterr().out == (
            f"digits · mlp · nag\n{counts} images of 10 classes\n"
            f"9,610 parameters on 1 cpu device\n{steps} steps of 32 images, learning rate 0.1\n"
        )
    assert not run_dir.exists()


def test_the_first_line_comes_before_jax_is_imported(tmp_path):
    code = (
        "import sys, nag_optax.cli as cli\n"
        "def stop(name): print(name, 'jax' in sys.modules); sys.exit(0)\n"
        "cli._imported = stop\n"
        "cli.run(['train'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout == "digits · cnn · nag\nnag_optax.train.runner:train False\n"


COMPILE_SOMETHING = """
import sys, nag_optax.cli as cli

def compile(name):
    import jax
    return lambda options: jax.jit(lambda x: x + 1)(1.0)

cli._imported = compile
sys.exit(cli.run(["train"]))
"""


def test_programs_are_kept_in_the_users_cache_folder(tmp_path, monkeypatch):
    """A damaged one is compiled again, without a word; a folder that the user names is taken instead."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    usual = Path(_cache_folder()) / "nag_optax" / "jax"

    def programs(**environment: str) -> list[Path]:
        done = subprocess.run(
            [sys.executable, "-c", COMPILE_SOMETHING],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "digits · cnn · nag\n", "")
        return list(usual.glob("*-cache"))

    (kept,) = programs()
    kept.write_bytes(kept.read_bytes()[:100])
    assert programs() == [kept]
    kept.unlink()
    assert not programs(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "named"))


def test_a_cache_folder_that_cannot_be_made_is_done_without(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr("sys.platform", "linux")
    (tmp_path / "nag_optax").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _keep_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


@pytest.mark.parametrize(
    ("system", "folder"),
    [("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", "AppData/Local")],
)
def test_the_cache_folder_is_that_of_the_system(system, folder, monkeypatch):
    monkeypatch.setattr("sys.platform", system)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert Path(_cache_folder()) == Path.home() / folder


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        command("train", "--model", "mlp", "--num-epochs", "2000", "--run-dir", tmp_path / "run"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(6)]
    assert lines[0] == "digits · mlp · nag\n" and lines[4] == "compiling\n" and lines[5].startswith("epoch")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(
        r"\nnag-optax: stopping soon; once more stops at once\n"
        r"nag-optax: stopped by SIGINT at step \d+, which is saved; "
        rf"continue with: nag-optax train --resume --run-dir {tmp_path}/run\n",
        error,
    )


SIGNAL_AT_IMPORT = """
import os, signal, sys

class Lost:
    def __del__(self):  # As in a callback of the garbage collector: what it raises is lost.
        os.kill(os.getpid(), signal.{signal})

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            sys.meta_path.remove(self)
            Lost()

sys.meta_path.insert(0, Finder())
from nag_optax.cli import main
sys.argv = ["nag-optax", {arguments}]
main()
"""


@pytest.mark.parametrize(
    ("name", "module", "arguments"),
    [
        ("SIGINT", "jax", '"train", "--num-epochs", "1", "--model", "mlp"'),
        ("SIGTERM", "tyro", '"compare", "--problem", "quadratic"'),
    ],
)
def test_a_signal_while_it_imports_is_not_lost(tmp_path, name, module, arguments):
    code = SIGNAL_AT_IMPORT.format(signal=name, module=module, arguments=arguments)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 128 + signal.Signals[name]
    assert result.stderr == (
        f"\nnag-optax: stopping soon; once more stops at once\nnag-optax: stopped by {name} before it began\n"
    )
    assert not list(tmp_path.iterdir())


def test_the_command_imports_nothing_before_it_listens():
    code = (
        "import sys, nag_optax\n"
        "before = set(sys.modules)\n"
        "import nag_optax.cli\n"
        "assert set(sys.modules) - before == {'nag_optax.cli'}, set(sys.modules) - before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("train", "stopped at once; --resume goes on from the latest checkpoint, if there is one"),
        ("compare", "stopped at once; --resume goes on from the latest checkpoint, if there is one"),
        ("evaluate", "stopped at once"),
    ],
)
def test_stopped_at_once_names_resume_where_there_is_one(command, line, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nag_optax.cli._run", stop)
    assert run([command]) == 130
    assert capsys.readouterr().err == f"nag-optax: {line}\n"


def test_an_output_that_cannot_be_written_is_one_line(monkeypatch, capsys):
    """As `nag-optax predict … > classes.csv` on a disk that is full."""

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nag_optax.cli._run", fail)
    assert run(["predict"]) == 1
    assert capsys.readouterr().err == "nag-optax: [Errno 28] No space left on device\n"


@pytest.mark.exhaustive
def test_files_too_large_for_the_disk_are_one_line(tmp_path):
    """A limit on file size stands for a disk that fills up while a checkpoint is written."""
    limited = ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash"]
    result = subprocess.run(
        limited + command("train", "--model", "mlp", "--num-epochs", "1", "--run-dir", tmp_path / "run"),
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},  # which would meet the limit as well
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "could not be written" in result.stderr and "--resume" in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
