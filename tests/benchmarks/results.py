"""From measured turns to ratios with intervals, and to the tables of the page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]

WIDEST = 0.05
"""Half width of the control's interval above which nothing is concluded."""

LIMIT = 0.03
AIM = 2 / 3
CADENCE = 50


def ratio(arm: Sequence[Row], bare: Sequence[Row], clock: str) -> tuple[float, float, float]:
    """Median over rounds of the ratio to the bare run of the same round, with a 95% bootstrap interval.

    Processes are drawn first, then their rounds: the rounds of one process are not independent.
    """
    pairs = [
        np.array([_each(a, clock) / _each(b, clock) for a, b in zip(x["turns"], y["turns"], strict=True)])
        for x, y in zip(arm, bare, strict=True)
    ]
    generator = np.random.default_rng(0)

    def draw() -> float:
        chosen = [pairs[i] for i in generator.integers(len(pairs), size=len(pairs))]
        return float(np.median(np.concatenate([generator.choice(p, len(p)) for p in chosen])))

    draws = np.sort([draw() for _ in range(2000)])
    return float(np.median(np.concatenate(pairs))), float(draws[50]), float(draws[-51])


def _each(turn: Row, clock: str) -> float:
    return float(turn[clock]) / int(turn["steps"])


def in_situ(rows: Iterable[Row], clock: str = "cpu") -> float:
    """1 + time in the monitor over the time of the rest of the same turns; median over turns."""
    shares = [
        turn[f"inside_{clock}"] / max(turn[clock] - turn[f"inside_{clock}"], 1e-9)
        for row in rows
        for turn in row["turns"]
    ]
    return 1 + statistics.median(shares) if shares else 1.0


def bare_step(rows: Iterable[Row]) -> float:
    """Processor seconds of a step that is not watched; median over turns."""
    return statistics.median(_each(turn, "cpu") for row in rows for turn in row["turns"])


def amortized(burst: float, step: float) -> tuple[int, float]:
    """The stride that a burst of so many seconds leads to, and what it costs spread over the steps between."""
    stride = 1
    while burst > LIMIT * AIM * CADENCE * stride * step:
        stride *= 2
    return stride, 1 + burst / (CADENCE * stride * step)


def groups(rows: Iterable[Row]) -> dict[tuple[str, str], dict[str, list[Row]]]:
    """Rows by workload and loop, then by arm."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault((row["workload"], row["loop"]), {}).setdefault(row["arm"], []).append(row)
    return found


def table(workload: str, loop: str, arms: dict[str, list[Row]], layers: int) -> str:
    """One workload: a row an arm, and what may be concluded."""
    bare = arms["bare"]
    step = bare_step(bare)
    lines = [
        f"### {workload}, {loop} loop",
        "",
        f"A bare step takes {1e3 * step:.1f} ms of processor time.",
        "",
    ]
    lines += [
        "| arm | in situ | processor | wall | us a layer | peak memory | written a step | same loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, rows in arms.items():
        lines.append(f"| {arm} | {_cells(arm, rows, bare, step, layers)} |")
    return "\n".join([*lines, "", *_verdict(arms), *_visits(arms, step), ""])


def _cells(arm: str, rows: list[Row], bare: list[Row], step: float, layers: int) -> str:
    errors = [row["error"] for row in rows if "error" in row]
    if errors:
        return f"not run: {errors[0]} | | | | | | "
    inside, memory = in_situ(rows), statistics.median(r["peak_mib"] for r in rows)
    memory -= statistics.median(row["peak_mib"] for row in bare)
    steps = sum(turn["steps"] for row in rows for turn in row["turns"])
    cells = ["" if arm.startswith("bare") else f"{inside:.3f}"]
    for clock in ("cpu", "wall"):
        middle, low, high = ratio(rows, bare, clock)
        cells.append("1" if arm == "bare" else f"{middle:.3f} [{low:.3f}, {high:.3f}]")
    cells.append("" if arm.startswith("bare") else f"{1e6 * (inside - 1) * step / layers:.0f}")
    cells.append(f"{memory:+.0f} MiB")
    cells.append(f"{sum(row['bytes'] for row in rows) / 1e3 / steps:.1f} kB")
    return " | ".join([*cells, _same(rows, bare)])


def _same(rows: list[Row], bare: list[Row]) -> str:
    """Losses can be compared where both took as many steps."""

    def taken(row: Row) -> int:
        ran = [*row["turns"], row.get("burst"), row.get("start_up")]
        return sum(turn["steps"] for turn in ran if turn)

    pairs = [(a["loss"], b["loss"]) for a, b in zip(rows, bare, strict=True) if taken(a) == taken(b)]
    return "" if not pairs else "yes" if all(a == b for a, b in pairs) else "no"


def _verdict(arms: dict[str, list[Row]]) -> list[str]:
    if "bare again" not in arms:
        return []
    _, low, high = ratio(arms["bare again"], arms["bare"], "cpu")
    if max(high - 1, 1 - low) > WIDEST:
        return [f"No verdict from end to end: the control alone is within [{low:.3f}, {high:.3f}].", ""]
    return [f"The control is within [{low:.3f}, {high:.3f}]; smaller differences are chance.", ""]


def _visits(arms: dict[str, list[Row]], step: float) -> list[str]:
    lines = []
    for arm in ("nndiag", "nndiag probe"):
        rows = [row for row in arms.get(arm, []) if row.get("burst") and "error" not in row["burst"]]
        if not rows:
            continue
        burst = statistics.median(row["burst"]["inside_cpu"] for row in rows)
        stride, spread = amortized(burst, step)
        lines.append(f"- {arm}: a burst of two visits takes {burst / step:.2f} bare steps.")
        if arm == "nndiag":
            start = statistics.median(row["start_up"]["inside_cpu"] for row in rows)
            lines.append(f"  Start-up (steps 0 to 61): {start / step:.1f} bare steps, once.")
            lines.append(f"  From then on every {CADENCE * stride} steps: amortized {spread:.4f}.")
        lines.append(f"  The probe replays {rows[0].get('run', {}).get('probe', '?')}.")
    stream, probe = arms.get("nndiag stream"), arms.get("nndiag probe")
    if stream and probe and all("error" not in row for row in (*stream, *probe)):
        burst = statistics.median(row["burst"]["inside_cpu"] for row in probe) / step
        both = in_situ(stream) + burst / CADENCE
        lines.append(f"- stream and weights at every step, probe every {CADENCE}: {both:.3f}.")
    return lines


def chart(title: str, points: Sequence[tuple[float, float]], label: str, show: Callable[[float], str]) -> str:
    """An SVG of one curve on logarithmic axes."""
    xs, ys = np.log10([x for x, _ in points]), np.log10([max(y, 1e-9) for _, y in points])
    low, high = ys.min() - 0.15, ys.max() + 0.15
    place = [
        (
            60 + 400 * float((x - xs[0]) / max(xs[-1] - xs[0], 1e-9)),
            230 - 180 * float((y - low) / (high - low)),
        )
        for x, y in zip(xs, ys, strict=True)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/><text x="{x:.1f}" y="{y - 8:.1f}">{show(value)}</text>'
        f'<text x="{x:.1f}" y="250">{size:g}</text>'
        for (x, y), (size, value) in zip(place, points, strict=True)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="520" height="285" font-family="sans-serif" font-size="11"'
        ' text-anchor="middle"><rect width="520" height="285" fill="white"/>'
        f'<text x="260" y="20" font-size="14">{title}</text>'
        f'<polyline points="{path}" fill="none" stroke="#2a6fb0" stroke-width="2"/>'
        f'<g fill="#2a6fb0">{marks}</g><text x="260" y="275">{label}</text></svg>\n'
    )
