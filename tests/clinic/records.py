"""``python -m tests.clinic.records DIR``: runs the collection and keeps the records.

Rules judge a record as they judge a run, so a threshold can be tried on all programs in seconds:
``python -m tests.clinic --from DIR``. What is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console

from nndiag.sinks import read_run, rediagnose

from .case import Case, Run, alone, watch
from .programs import CASES
from .settings import PUBLISHED, SETTINGS, Setting

MARKS = "marks.json"


def place(root: Path, case: Case, setting: Setting, *, twin: bool) -> Path:
    """The directory of one run."""
    name = f"{case.name}, twin" if twin else case.name
    return root / _plain(setting.name) / _plain(name)


def _plain(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-")


def read(root: Path, case: Case, setting: Setting = PUBLISHED, *, twin: bool = False) -> Run:
    """One run, judged by the rules as they are now.

    Raises:
        FileNotFoundError: it was not run, or the program cannot run in this setting.
    """
    directory = place(root, case, setting, twin=twin)
    marks = json.loads((directory / MARKS).read_text(encoding="utf-8"))
    if "error" in marks:
        raise FileNotFoundError(marks["error"])
    report = rediagnose(read_run(directory))
    metric = math.nan if marks["metric"] is None else marks["metric"]
    return Run(report, metric, tuple(marks["losses"]), marks["seconds"], marks["faults"])


def keep(root: Path, case: Case, setting: Setting, *, twin: bool) -> str:
    """Runs one program and keeps its record; returns its name."""
    directory = place(root, case, setting, twin=twin)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with alone(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = watch(setting.build(case, twin=twin), log_dir=str(directory), **setting.options)
        marks = {
            "metric": None if math.isnan(run.metric) else run.metric,
            "losses": [loss if math.isfinite(loss) else None for loss in run.losses[-1:]],
            "seconds": run.seconds,
            "faults": dict(run.faults),
        }
    except Exception as error:
        if setting is PUBLISHED:
            raise
        marks = {"error": "".join(traceback.format_exception_only(error)).strip()}
    (directory / MARKS).write_text(json.dumps(marks), encoding="utf-8")
    return f"{setting.name}: {case.name}{', twin' if twin else ''}"


def missing(
    root: Path, cases: Sequence[Case], settings: Sequence[Setting]
) -> Iterator[tuple[Case, Setting, bool]]:
    """What is not there yet: case, setting, whether its twin."""
    for setting in settings:
        for case in cases:
            for twin in (False, True) if case.has_twin else (False,):
                if not (place(root, case, setting, twin=twin) / MARKS).exists():
                    yield case, setting, twin


def _keep_named(root: Path, name: str, setting: str, twin: bool) -> str:
    case = next(case for case in CASES if case.name == name)
    return keep(root, case, next(s for s in SETTINGS if s.name == setting), twin=twin)


def gather(root: Path, cases: Sequence[Case], settings: Sequence[Setting], workers: int) -> None:
    """Runs what is missing, several programs side by side, each on one thread."""
    tasks = list(missing(root, cases, settings))
    console = Console(highlight=False)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        runs = [pool.submit(_keep_named, root, case.name, s.name, twin) for case, s, twin in tasks]
        for count, run in enumerate(as_completed(runs), 1):
            console.print(f"{count} of {len(tasks)}  {run.result()}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.clinic.records", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--half", choices=("tuning", "check"), help="only this half of the collection")
    parser.add_argument("--only", action="append", metavar="NAME", help="cases whose name contains NAME")
    parser.add_argument("--setting", action="append", choices=[s.name for s in SETTINGS], help="repeatable")
    parser.add_argument("--all-settings", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if options.half in (None, case.half)]
    cases = [case for case in cases if not options.only or any(name in case.name for name in options.only)]
    wanted = options.setting or [PUBLISHED.name]
    settings = [s for s in SETTINGS if options.all_settings or s.name in wanted]
    gather(options.directory, cases, settings, options.workers)


if __name__ == "__main__":
    main()
