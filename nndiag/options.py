"""Which measures, layers and rules are in use, checked once and early."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Self

from nndiag.errors import ConfigurationError
from nndiag.findings import Severity
from nndiag.measures import MEASURES, ON_DEMAND, RULES


@dataclass(frozen=True)
class Selection:
    """The user's choice of measures, layers, rules and thresholds.

    Attributes:
        measures: Names of measures; None means all but those on demand.
        layers: Glob patterns on layer names, "!pattern" excludes; None means all.
        select: Rule ids or prefixes ("ND2"), or "ND202:backbone.*" for some layers; None means all.
        ignore: As ``select``, for what shall not be judged.
        thresholds: New thresholds by rule id.
    """

    measures: tuple[str, ...] | None = None
    layers: tuple[str, ...] | None = None
    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def checked(
        cls,
        measures: Sequence[str] | None = None,
        layers: Sequence[str] | None = None,
        select: Sequence[str] | None = None,
        ignore: Sequence[str] | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> Self:
        """Checks every option that can be checked without a model.

        Raises:
            ConfigurationError: naming the argument, what was expected, and the nearest known name.
        """
        chosen = _strings("measures", measures, may_be_empty=False)
        for name in chosen or ():
            if name not in MEASURES and name not in ON_DEMAND:
                raise ConfigurationError.unknown("measures", name, (*MEASURES, *ON_DEMAND))
        patterns = _strings("layers", layers, may_be_empty=False)
        judged = {argument: _strings(argument, v) for argument, v in (("select", select), ("ignore", ignore))}
        for argument, rules in judged.items():
            for rule in rules or ():
                _check_rule_pattern(argument, rule)
        if not isinstance(thresholds, Mapping | None):
            raise ConfigurationError.expected("thresholds", "a mapping from rule ids to numbers", thresholds)
        for rule_id, value in (thresholds or {}).items():
            _check_threshold(rule_id, value)
        limits = {rule_id: float(value) for rule_id, value in (thresholds or {}).items()}
        return cls(chosen, patterns, judged["select"], judged["ignore"] or (), limits)

    def check_layers(self, names: Iterable[str]) -> None:
        """Checks that every layer pattern fits some layer.

        Raises:
            ConfigurationError: a pattern fits none.
        """
        known = list(names)
        for pattern in self.layers or ():
            if not any(_fits(pattern.removeprefix("!"), name) for name in known):
                raise ConfigurationError.unknown("layers", pattern, known)

    def keeps_layer(self, name: str | None) -> bool:
        """Whether a layer is observed; a functional call follows the module it is in."""
        if name is None or self.layers is None:
            return True
        wanted = [pattern for pattern in self.layers if not pattern.startswith("!")]
        barred = [pattern[1:] for pattern in self.layers if pattern.startswith("!")]
        if any(_fits(pattern, name) for pattern in barred):
            return False
        return not wanted or any(_fits(pattern, name) for pattern in wanted)

    def uses(self, rule: str) -> bool:
        """Whether a rule may speak about any layer at all."""
        if any(rule.startswith(pattern) for pattern in self.ignore):  # one with a layer begins no rule's id
            return False
        return self.select is None or any(rule.startswith(each.partition(":")[0]) for each in self.select)

    def judges(self, rule: str, layer: str | None, places: Sequence[str] = ()) -> bool:
        """Whether a rule may speak about a layer.

        Args:
            rule: Its id.
            layer: The layer that was read.
            places: The layers that the finding names instead: a user knows it by these.
        """
        names = places or (layer,)
        if _covers_any(self.ignore, rule, layer) or all(_covers_any(self.ignore, rule, n) for n in names):
            return False
        return self.select is None or any(_covers_any(self.select, rule, n) for n in (layer, *names))


def _strings(
    argument: str, values: Sequence[str] | None, *, may_be_empty: bool = True
) -> tuple[str, ...] | None:
    """A bare string is a common slip: its letters would be taken for names."""
    if values is None:
        return None
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ConfigurationError.expected(argument, "a sequence of strings", values)
    strings = tuple(values)
    for value in strings:
        if not isinstance(value, str) or not value.strip("!"):
            raise ConfigurationError.expected(argument, "a sequence of non-empty strings", value)
    if not strings and not may_be_empty:
        raise ConfigurationError.expected(argument, "at least one string, or None for all", values)
    return strings


def _check_rule_pattern(argument: str, pattern: str) -> None:
    rule, colon, glob = pattern.partition(":")
    if colon and not glob:
        raise ConfigurationError.expected(argument, 'rules as "ND202" or "ND202:layer"', pattern)
    if not any(known.startswith(rule) for known in RULES):
        raise ConfigurationError.unknown(argument, rule, RULES)


def _check_threshold(rule: object, value: object) -> None:
    if rule not in RULES:
        raise ConfigurationError.unknown("thresholds", rule, RULES)
    if not _is_number(value):
        raise ConfigurationError.expected(f"thresholds[{rule!r}]", "a finite number", value)


def _fits(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.partition(":")[0], pattern)


def _covers_any(patterns: Iterable[str], rule: str, layer: str | None) -> bool:
    return any(_covers(pattern, rule, layer) for pattern in patterns)


def _covers(pattern: str, rule: str, layer: str | None) -> bool:
    prefix, colon, glob = pattern.partition(":")
    return rule.startswith(prefix) and (not colon or (layer is not None and _fits(glob, layer)))


@dataclass(frozen=True)
class MonitorOptions:
    """Every option of a monitor, checked.

    Attributes: as in ``nndiag.DiagnosticsMonitor``; ``every_n`` is None where a default applies.
    """

    selection: Selection
    every_n: int | None
    probe: bool
    probe_samples: int
    max_overhead: float | None
    log_dir: str | None
    console: bool
    html: bool | str
    stop_on: Severity | None
    merge_ranks: bool
    strict: bool

    @classmethod
    def checked(
        cls,
        *,
        every_n_train_steps: int | None = None,
        measures: Sequence[str] | None = None,
        layers: Sequence[str] | None = None,
        select: Sequence[str] | None = None,
        ignore: Sequence[str] | None = None,
        thresholds: Mapping[str, float] | None = None,
        probe: bool = True,
        probe_samples: int = 128,
        max_overhead: float | None = 0.03,
        log_dir: str | os.PathLike[str] | None = None,
        console: bool = True,
        html: bool | str = False,
        stop_on: str | None = None,
        merge_ranks: bool = False,
        strict: bool = False,
    ) -> Self:
        """Checks every option.

        Raises:
            ConfigurationError: naming the argument, what was expected, and the nearest known name.
        """
        if every_n_train_steps is not None:
            _check_count("every_n_train_steps", every_n_train_steps)
        _check_count("probe_samples", probe_samples)
        if max_overhead is not None and not (_is_number(max_overhead) and max_overhead > 0):
            raise ConfigurationError.expected("max_overhead", "a number above 0, or None", max_overhead)
        if stop_on is not None and stop_on not in list(Severity):
            raise ConfigurationError.unknown("stop_on", stop_on, Severity)
        if log_dir is not None and not _is_path(log_dir):
            raise ConfigurationError.expected("log_dir", "a path, or None", log_dir)
        if not isinstance(html, bool) and not _is_path(html):
            raise ConfigurationError.expected("html", "True, False, or a path", html)
        switches = {"probe": probe, "console": console, "merge_ranks": merge_ranks, "strict": strict}
        for argument, value in switches.items():
            if not isinstance(value, bool):
                raise ConfigurationError.expected(argument, "True or False", value)
        return cls(
            selection=Selection.checked(measures, layers, select, ignore, thresholds),
            every_n=every_n_train_steps,
            probe=probe,
            probe_samples=probe_samples,
            max_overhead=max_overhead,
            log_dir=None if log_dir is None else os.fspath(log_dir),
            console=console,
            html=html if isinstance(html, bool) else os.fspath(html),
            stop_on=None if stop_on is None else Severity(stop_on),
            merge_ranks=merge_ranks,
            strict=strict,
        )

    def with_cadence(self, every_n: int) -> Self:
        """The same options with a cadence filled in."""
        return replace(self, every_n=every_n)


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max


def _is_path(value: object) -> bool:
    """Whether this is a path as text; an empty one would mean the working directory."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    return isinstance(path, str) and path != ""


def _check_count(argument: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError.expected(argument, "a whole number above 0", value)
