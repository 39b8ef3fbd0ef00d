"""``python -m tests.integrations``: runs each integration and logger once and prints what landed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def main() -> None:
    """The command."""
    from .logger_runs import ENVIRONMENT, KINDS

    os.environ.update(ENVIRONMENT)
    quiet()
    table = Table(
        "integration or logger", "package", "what landed", title="Read back by each one's own means"
    )
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        os.chdir(here)
        for name, package, run in INTEGRATIONS:
            table.add_row(name, *result(package, run, here / name.replace(" ", "-")))
        for name in KINDS:
            table.add_row(name, *result(KINDS[name].package, logger(name), here / name))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def quiet() -> None:
    """Frameworks give advice; here only results are wanted."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "transformers", "accelerate", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


def result(package: str, run: Callable[[Path], str], directory: Path) -> tuple[str, str]:
    """The package with its version, and what landed or why nothing did."""
    if find_spec(package) is None:
        return package, f"not installed: pip install {package}"
    known = {"mlflow": ("mlflow", "mlflow-skinny")}.get(package, (package,))
    found = next(name for name in known if _is_distribution(name))
    directory.mkdir()
    return f"{found} {version(found)}", run(directory)


def _is_distribution(name: str) -> bool:
    try:
        version(name)
    except ImportError:
        return False
    return True


def logger(name: str) -> Callable[[Path], str]:
    """A fit with one logger."""
    from .logger_runs import KINDS, SICK, fit

    def run(directory: Path) -> str:
        used = KINDS[name].make(directory)
        visits = fit(used).callbacks[0].report.run["visits"]
        landed = KINDS[name].read(used)
        shown = f"{SICK} shown, written {landed.shown}x" if SICK in landed.findings else "no text"
        users = ", ".join(sorted(landed.users))
        return f"{len(landed.own)} numbers at {visits} visits; {shown}; beside {users}"

    return run


def said(report: Any, *notes: str) -> str:
    """A report in one line."""
    rules = ", ".join(sorted({each.rule for top in report.findings for each in top.walk()})) or "no finding"
    run = report.run
    return "; ".join(
        [f"{run['visits']} visits to step {run['last_step']}", f"probe {run['probe']}", rules, *notes]
    )


def in_lightning(directory: Path) -> str:
    """``lightning.pytorch``."""
    from .lightning_runs import quiet_monitor
    from .logger_runs import fit

    monitor = quiet_monitor(every_n_train_steps=10, log_dir=str(directory))
    fit(False, monitor)
    return said(monitor.report, *files(directory))


def in_other_namespace(directory: Path) -> str:
    """``pytorch_lightning``, in a process of its own."""
    from .test_lightning_lifecycle import OTHER_NAMESPACE

    done = subprocess.run([sys.executable, "-c", OTHER_NAMESPACE], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def in_command_line(directory: Path) -> str:
    """``LightningCLI``: a file and an option."""
    from lightning.pytorch.cli import LightningCLI

    from .lightning_runs import Classifier
    from .test_lightning_options import CONFIGURATION, Data

    path = directory / "run.yaml"
    path.write_text(CONFIGURATION)
    arguments = ["fit", "--config", str(path), f"--trainer.callbacks.init_args.log_dir={directory}"]
    cli = LightningCLI(Classifier, args=arguments, save_config_callback=None, datamodule_class=Data)
    monitor = next(each for each in cli.trainer.callbacks if hasattr(each, "report"))
    return said(monitor.report, *files(directory))


def in_fabric(directory: Path) -> str:
    """The recipe for Fabric."""
    from .loop_runs import differences, under_fabric

    watched, monitor = under_fabric(True, log_dir=directory)
    return said(monitor.report, exactness(differences(watched, under_fabric(False)[0])), *files(directory))


def in_accelerate(directory: Path) -> str:
    """The recipe for Accelerate."""
    from .loop_runs import differences, under_accelerate

    watched, monitor = under_accelerate(True, 2, log_dir=directory)
    bare, _ = under_accelerate(False, 2)
    return said(monitor.report, exactness(differences(watched, bare)), *files(directory))


def in_huggingface(directory: Path) -> str:
    """``DiagnosticsCallback``."""
    from .huggingface_runs import trained, watching
    from .loop_runs import differences

    callback = watching()
    options = {"report_to": ["tensorboard"], "gradient_accumulation_steps": 2}
    watched = trained(directory, callback, **options)
    bare = trained(directory / "bare", **options)
    return said(callback.report, exactness(differences(watched.model, bare.model)), *files(directory))


def exactness(differing: list[str]) -> str:
    """Whether training ended as without nndiag."""
    return f"{len(differing)} weights differ" if differing else "weights as without, to the bit"


def files(directory: Path) -> Iterator[str]:
    """What nndiag wrote: how many lines of its record, and event files."""
    for record in directory.rglob("nndiag.jsonl"):
        events = len(list(record.parent.glob("nndiag/events.out.tfevents.*")))
        yield f"record of {len(record.read_text().splitlines())} lines, {events} event file"


INTEGRATIONS: tuple[tuple[str, str, Callable[[Path], str]], ...] = (
    ("lightning.pytorch", "lightning", in_lightning),
    ("pytorch_lightning", "pytorch_lightning", in_other_namespace),
    ("LightningCLI", "jsonargparse", in_command_line),
    ("Fabric", "lightning", in_fabric),
    ("Accelerate", "accelerate", in_accelerate),
    ("Trainer of Hugging Face", "transformers", in_huggingface),
)

if __name__ == "__main__":
    main()
