"""`nag-optax export`: the model of a run, or a step that trains it on, for a machine without JAX."""

import dataclasses
import importlib.metadata
import importlib.util
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from rich.console import Console

from nag_optax.acceleration.evaluation import eval_params
from nag_optax.export import device
from nag_optax.export.program import Program, trace
from nag_optax.export.stored import save
from nag_optax.layers.convolution import by_products
from nag_optax.train.checks import check, flag, shown
from nag_optax.train.data import Statistics
from nag_optax.train.errors import InputError, collected_signals, interrupted, reason
from nag_optax.train.freezing import fix_statistics, frozen_mask
from nag_optax.train.optimizers import make_optimizer
from nag_optax.train.options import ExportOptions
from nag_optax.train.parallel import find_devices
from nag_optax.train.progress import say
from nag_optax.train.spec import Spec
from nag_optax.train.step import How, TrainState, step_key, train_step
from nag_optax.train.transfer import StoredRun, stored_run

_BATCH_SIZE = 32


def export_run(options: ExportOptions, console: Console | None = None) -> Path:
    """Writes the programs of a run, and returns their folder.

    Raises:
        InputError: if an option is wrong, the folder holds no run, or the extra `export` is missing.
        Interrupted: after SIGINT or SIGTERM; nothing is written then.
    """
    console = console or Console()
    _check(options)
    folder = options.output or options.run_dir / "export"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--output {folder}: exists already; name a new folder")

    told = partial(say, console)
    with collected_signals() as interrupts:

        def look() -> None:
            if interrupts:
                raise interrupted(interrupts, "; nothing was written")

        run = stored_run(options.run_dir, find_devices("cpu", 1), told)
        look()
        programs = programs_of(run, options)
        files, notes = {}, {"class_names": run.facts["class_names"], "target": options.target}
        if options.target != "stablehlo":
            from nag_optax.export.iree import compiled

            told(f"compiling for {options.target} with IREE")
            notes["iree"] = importlib.metadata.version("iree-base-compiler")
            try:
                for name, program in programs.items():
                    look()
                    files[f"{name}.vmfb"] = compiled(program, options.target)
            except ValueError as error:
                look()  # A terminal's Ctrl-C ends IREE's process too.
                raise InputError(f"--what {options.what} --target {options.target}: {error}") from None
            files["device.py"] = Path(device.__file__).read_bytes()
        look()
        try:
            save(folder, programs, files=files, notes=notes)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)  # It was new, or empty.
            raise InputError(f"--output {folder}: cannot be written ({reason(error)})") from None
    state = sum(array.nbytes for array in programs[next(iter(programs))].initial)
    told(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}; {state:,} bytes of state")
    return folder


def programs_of(
    run: StoredRun, options: ExportOptions, optimizer: optax.GradientTransformationExtraArgs | None = None
) -> dict[str, Program]:
    """`predict`, and `train` if a step is asked for, with one state. The optimizer is the run's if None."""
    model, facts, spec = run.loop.module(run.state), run.facts, _tuned(run.spec, options)
    statistics = Statistics.of(facts)
    size = None if options.target == "stablehlo" else options.batch_size or _BATCH_SIZE
    images = {"images": jax.ShapeDtypeStruct((1, *facts["image_shape"]), jnp.float32)}
    labels = {"labels": jax.ShapeDtypeStruct((1,), jnp.int32)}
    common: dict[str, Any] = {"batch_size": size, "platforms": ["cpu"]}

    for _, module in nnx.iter_graph(model):
        if isinstance(module, nnx.BatchNorm):  # The run may have frozen others.
            module.use_running_average = False
        elif isinstance(module, nnx.Conv) and options.target != "stablehlo":
            module.conv_general_dilated = by_products
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    frozen = frozen_mask(spec.freeze, params)
    fix_statistics(model, frozen)
    graphdef, _, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optimizer or make_optimizer(spec, 1, watched=False)
    if spec.bfloat16_parameters:
        params = optax.tree.cast(params, jnp.bfloat16)
    zero = jnp.zeros([], jnp.int32)
    trains = options.what == "train-step"
    opt_state = jax.jit(optimizer.init)(params) if trains else ()
    state = TrainState(zero, params, nnx.to_pure_dict(rest), opt_state, zero.astype(jnp.float32), zero)
    # The sums over an epoch are constant zeros, so that after a step they hold one batch.
    constant: list[Any] = [False, frozen, _fixed_statistics(model, state.model_state), False, True, True]
    how = How(0.0, spec.label_smoothing, spec.precision.startswith("bfloat16"))

    def train(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        standardised, labels = statistics.standardise(batch["images"]), batch["labels"]
        key = step_key(spec.seed, state.step)
        state = train_step(graphdef, optimizer, state, standardised, labels, key, how)
        count = labels.shape[0]
        return state, {"loss": state.loss_sum / count, "accuracy": state.correct / count}

    def predict(state: TrainState, batch: dict[str, jax.Array]) -> tuple[None, dict[str, jax.Array]]:
        params = eval_params(state.opt_state, state.params)
        module = nnx.merge(graphdef, optax.tree.cast(params, jnp.float32), state.model_state)
        logits = module(statistics.standardise(batch["images"]), train=False)
        return None, {"probabilities": jax.nn.softmax(logits)}

    if not trains:
        return {"predict": trace(predict, state, images, frozen=True, **common)}
    return {
        "train": trace(train, state, images | labels, frozen=TrainState(*constant), **common),
        "predict": trace(predict, state, images, frozen=TrainState(*constant), **common),
    }


def _tuned(spec: Spec, options: ExportOptions) -> Spec:
    """The run's optimizer for an unknown number of further steps, without pruning and averages."""
    return dataclasses.replace(
        spec,
        learning_rate=options.learning_rate or spec.learning_rate,
        schedule="constant",
        warmup_epochs=0.0,
        freeze=tuple(part.strip() for pattern in options.freeze for part in pattern.split(",")),
        low_memory=spec.low_memory or options.low_memory,
        prune=None,
        ema=0.0,
    )


def _fixed_statistics(model: nnx.Module, model_state: Any) -> Any:
    """True for the running statistics of a batch normalisation that no longer changes."""
    fixed = {
        path
        for path, module in nnx.iter_graph(model)
        if isinstance(module, nnx.BatchNorm) and module.use_running_average
    }
    return jax.tree_util.tree_map_with_path(
        lambda path, _: tuple(entry.key for entry in path[:-1]) in fixed, model_state
    )


def _check(options: ExportOptions) -> None:
    check(options)
    for name in ("freeze", "learning_rate", "low_memory"):
        if options.what == "predict" and (value := getattr(options, name)):
            raise InputError(f"{flag(name)} {shown(value)}: is only for --what train-step")
    if options.target == "stablehlo":
        if options.batch_size is not None:
            raise InputError(f"--batch-size {options.batch_size}: --target stablehlo takes every size")
    elif importlib.util.find_spec("iree") is None or importlib.util.find_spec("iree.compiler") is None:
        raise InputError(f"--target {options.target}: needs the extra, pip install 'nag_optax[export]'")
