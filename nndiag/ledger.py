"""The ledger of verdicts: persistence over visits, one finding a cause, symptoms under their cause."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from nndiag.findings import Finding, Severity, numbers, plain
from nndiag.measures import RULES, Measure
from nndiag.options import Selection
from nndiag.rules import LEARNS, Abstention, Case, History, Rule, Verdict, View


@dataclass
class _Track:
    """What one rule said about one layer so far."""

    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=3))
    verdict: Verdict | None = None
    is_active: bool = False
    streak_start: int = -1
    first_step: int = -1
    last_clean_step: int | None = None
    clean_before: int | None = None
    last_step: int = -1

    def add(self, step: int, verdict: Verdict | None, needed: int) -> None:
        """Files one verdict; ``needed`` bad ones among the last three make a finding."""
        if verdict is None:
            self.last_clean_step = step
        else:
            if not any(self.recent):
                self.streak_start, self.clean_before = step, self.last_clean_step
            self.verdict = verdict
        self.recent.append(verdict is not None)
        if verdict is not None and sum(self.recent) >= needed:
            if not self.is_active:
                self.first_step = self.streak_start
            self.is_active = True
        elif len(self.recent) > 1 and not any(list(self.recent)[-2:]):
            self.is_active = False
        if self.is_active:
            self.last_step = step

    @property
    def has_spoken(self) -> bool:
        return self.first_step >= 0

    def to_row(self) -> dict[str, Any]:
        """Plain types."""
        row: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        row["recent"] = [int(was_bad) for was_bad in self.recent]
        row["verdict"] = None if self.verdict is None else plain(asdict(self.verdict))
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The inverse of ``to_row``."""
        track = cls(**{name: row[name] for name in _PLAIN})
        track.recent.extend(map(bool, row["recent"]))
        if row["verdict"] is not None:
            known = numbers(row["verdict"]) | {"evidence": numbers(row["verdict"]["evidence"])}
            known |= {"severity": Severity(known["severity"]), "places": tuple(known["places"])}
            track.verdict = Verdict(**known)
        return track


_PLAIN = ("is_active", "streak_start", "first_step", "last_clean_step", "clean_before", "last_step")


class Ledger:
    """Files the verdicts of every rule and states the findings they add up to."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._tracks: dict[tuple[str, str | None], _Track] = {}

    def rows(self) -> list[dict[str, Any]]:
        """Everything filed so far, as plain types."""
        return [
            {"rule": rule, "layer": layer, **track.to_row()} for (rule, layer), track in self._tracks.items()
        ]

    def take(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Goes on from what another ledger had filed."""
        self._tracks |= {(row["rule"], row["layer"]): _Track.from_row(row) for row in rows}

    def judge(
        self, history: History, measures: Sequence[Measure], source: Literal["live", "checkpoint"]
    ) -> tuple[Finding, ...]:
        """Lets every rule judge what was read at the newest step; returns the findings as they stand."""
        for measure in measures:
            for rule in measure.rules:
                if not self._selection.uses(rule.id):
                    continue
                threshold = self._selection.thresholds.get(rule.id, rule.threshold)
                needed = 1 if rule.persistence == "at once" or source == "checkpoint" else 2
                for layer in history.read_now(rule.measure, rule.reads, *rule.also_reads):
                    verdict = rule.judge(View(history, rule.measure, layer, threshold, source))
                    if isinstance(verdict, Abstention):
                        continue
                    enough = 1 if verdict is not None and verdict.is_conclusive else needed
                    self._tracks.setdefault((rule.id, layer), _Track()).add(history.step, verdict, enough)
        return self.findings(history, measures)

    def findings(self, history: History, measures: Sequence[Measure]) -> tuple[Finding, ...]:
        """One finding a rule, symptoms under their causes, the worst first."""
        tracks: dict[str, dict[str | None, _Track]] = {}
        for (id_, layer), track in self._tracks.items():
            if track.has_spoken and self._is_wanted(id_, layer, track):
                tracks.setdefault(id_, {})[layer] = track
        rules = [rule for measure in measures for rule in measure.rules if rule.id in tracks]
        stated = [self._state(rule, tracks[rule.id], history) for rule in rules]
        harmless = frozenset(rule.id for rule in rules if _is_harmless(tracks[rule.id]))
        return _order(_group(stated, history, harmless), history)

    def _is_wanted(self, rule: str, layer: str | None, track: _Track) -> bool:
        """Asked of what is said, not of what is filed: only a verdict knows the layers that it names."""
        return self._selection.judges(rule, layer, track.verdict.places if track.verdict else ())

    def _state(self, rule: Rule, tracks: Mapping[str | None, _Track], history: History) -> Finding:
        spoken = _spoken(tracks)
        active = any(track.is_active for track in spoken.values())
        ordered = sorted(spoken.items(), key=lambda item: _rank(rule, item[1], _depth(history, item[0])))
        verdicts = tuple(track.verdict for _, track in ordered if track.verdict is not None)
        places = [
            place for layer, track in ordered if track.verdict for place in track.verdict.places or (layer,)
        ]
        first = min(spoken.values(), key=lambda track: track.first_step)
        case = Case(
            layers=tuple(dict.fromkeys(place for place in places if place is not None)),
            verdicts=verdicts,
            step=history.step,
            first_step=first.first_step,
        )
        advice = rule.advise(case)
        return Finding(
            rule=rule.id,
            name=rule.name,
            measure=rule.measure,
            severity=_severity(verdicts, history, is_over=not active),
            layers=case.layers,
            first_step=first.first_step,
            last_clean_step=first.clean_before,
            last_step=max(track.last_step for track in spoken.values()),
            status="active" if active else "resolved",
            value=case.leading.value,
            threshold=self._selection.thresholds.get(rule.id, rule.threshold),
            message=advice.message,
            recommendation=advice.recommendation,
            evidence=dict(case.leading.evidence),
        )


def _severity(verdicts: Sequence[Verdict], history: History, *, is_over: bool) -> Severity:
    """That of the gravest verdict; what is over, and kept the network from nothing, is a note."""
    fell = View(history, "run", None, 0.0).loss_fell() if is_over else None
    if fell is not None and fell >= LEARNS:
        return Severity.INFO
    return max((v.severity for v in verdicts), key=lambda severity: severity.rank)


def _depth(history: History, layer: str | None) -> int:
    info = history.layers.get(layer) if layer is not None else None
    return info.depth if info else 0


def _rank(rule: Rule, track: _Track, depth: int) -> tuple[float, ...]:
    assert track.verdict is not None
    severity, value = -track.verdict.severity.rank, track.verdict.value or 0.0
    badness = value if rule.lower_is_worse else -value
    return (severity, badness, depth) if rule.lead == "worst" else (severity, depth, badness)


def _spoken(tracks: Mapping[str | None, _Track]) -> dict[str | None, _Track]:
    """The tracks that a finding speaks for: those that are active, or, once it is over, all."""
    return {layer: track for layer, track in tracks.items() if track.is_active} or dict(tracks)


def _is_harmless(tracks: Mapping[str | None, _Track]) -> bool:
    """Whether a finding is of things that bring nothing about."""
    return all(track.verdict is not None and track.verdict.is_harmless for track in _spoken(tracks).values())


def _group(findings: list[Finding], history: History, harmless: frozenset[str]) -> list[Finding]:
    """Puts a symptom under its cause: a declared consequence, not upstream of it, not before it.

    A cause that was never seen clean was there before it could first be judged.
    """
    cause_of: dict[str, str] = {}
    for finding in reversed(findings):  # of rules that explain each other, the first is the cause
        candidates = (o.rule for o in findings if o.rule not in harmless and _explains(o, finding, history))
        cause = next((rule for rule in candidates if finding.rule not in _chain(rule, cause_of)), None)
        if cause is not None:
            cause_of[finding.rule] = cause
    causes: dict[str, list[Finding]] = {}
    for finding in findings:
        causes.setdefault(cause_of.get(finding.rule, ""), []).append(finding)
    return [_adopt(top, causes) for top in causes.get("", ())]


def _chain(rule: str, cause_of: Mapping[str, str]) -> list[str]:
    """A rule, its cause, the cause of that, and so on: no finding may end up under itself."""
    chain = [rule]
    while chain[-1] in cause_of:
        chain.append(cause_of[chain[-1]])
    return chain


def _adopt(finding: Finding, causes: dict[str, list[Finding]]) -> Finding:
    """A cause is at least as grave as what it brings about."""
    symptoms = tuple(_adopt(symptom, causes) for symptom in causes.get(finding.rule, ()))
    grave = [s.severity for s in symptoms if s.is_active] if finding.is_active else []
    severity: Severity = max([finding.severity, *grave], key=lambda severity: severity.rank)
    return replace(finding, related=symptoms, severity=severity)


def _explains(cause: Finding, symptom: Finding, history: History) -> bool:
    rule = RULES[cause.rule]
    if symptom.rule not in rule.explains or (symptom.is_active and not cause.is_active):
        return False
    if symptom.rule in rule.spares(cause.evidence):
        return False
    if rule.acts_by_updates and symptom.first_step == 0:
        return False
    if RULES[symptom.rule].acts_by_updates and cause.last_clean_step is not None:
        return False  # it came with the updates, and does not explain them
    is_ahead = _first_depth(cause.layers, history) <= _first_depth(symptom.layers, history)
    was_there = cause.first_step <= symptom.first_step or cause.last_clean_step is None
    return was_there and (is_ahead or rule.is_of_run)


def _first_depth(layers: Iterable[str], history: History) -> int:
    """Findings of the run as a whole stand before every layer."""
    return min((_depth(history, layer) for layer in layers), default=-1)


def _order(findings: list[Finding], history: History) -> tuple[Finding, ...]:
    return tuple(
        sorted(
            findings,
            key=lambda f: (
                not f.is_active,
                -f.severity.rank,
                not RULES[f.rule].is_of_run,
                -len(f.related),
                f.first_step,
                _first_depth(f.layers, history),
                f.rule,
            ),
        )
    )
