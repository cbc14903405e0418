"""`nag-optax compare`: several optimizers train one model, each at its best learning rate."""

from typing import TYPE_CHECKING, Any

from nag_optax.compare.spec import CompareOptions, ComparisonFolder, DataSpec, contender, resolve

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CompareOptions", "compare"]


def compare(options: CompareOptions, console: "Console | None" = None) -> dict[str, Any]:
    """Carries out a comparison, or what is left of it, and returns its result.

    Args:
        options: what to compare; a None takes its default.
        console: where to show progress and result; None is standard output.

    Returns:
        The content of `comparison.json`.

    Raises:
        InputError: if an option or a file is wrong; nothing is overwritten then.
        Interrupted: after SIGINT or SIGTERM; the optimizers that are finished are kept.

    Example:
        >>> import tempfile, pathlib
        >>> from rich.console import Console
        >>> from nag_optax.compare import CompareOptions, compare
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "comparison"
        >>> options = CompareOptions(problem="quadratic", optimizers=("sgd", "nag"), run_dir=folder)
        >>> with open("/dev/null", "w") as silent:
        ...     sgd, nag = compare(options, Console(file=silent))["optimizers"]
        >>> steps = [r["trials"][r["best"]]["steps_to_gap"]["1e-06"] for r in (sgd, nag)]
        >>> steps[1] < steps[0] / 4
        True
    """
    # Here, because the command line reads its options without JAX.
    import jax
    from rich.console import Console

    from nag_optax.compare.comparison import Comparison
    from nag_optax.compare.images import Images
    from nag_optax.compare.problems import Descents
    from nag_optax.train.errors import collected_signals
    from nag_optax.train.folder import as_begun
    from nag_optax.train.parallel import find_devices

    with collected_signals() as interrupts:
        if options.problem is None:
            options = as_begun(options, ComparisonFolder)
        spec = resolve(options)
        device = find_devices(spec.device, 1)[0]
        folder = ComparisonFolder(spec)
        folder.check()
        console = console or Console()
        with jax.default_device(device):
            subject = Images(spec, device, console) if isinstance(spec, DataSpec) else Descents(spec)
            folder.spec = subject.spec
            for name in spec.optimizers:
                if ":" in name:  # A user's own fails here, before others run.
                    subject.check(contender(name))
            with folder.claimed():
                return Comparison(subject, folder, device, console, interrupts).carry_out()
