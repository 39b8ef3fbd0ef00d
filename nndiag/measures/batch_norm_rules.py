"""Rules on batch normalization: running statistics, batches, and what differs between training and evaluation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from nndiag.findings import Reading, Scalar, Severity
from nndiag.measures.batch_norm_settings import SETTING, STALE, is_mistaken
from nndiag.rules import ABSTAIN, Abstention, Advice, Case, Rule, Verdict, View

_NAME = "norm_drift"

WORTHLESS = 0.05
"""PreciseBN distance of a critical finding."""

SMALL = 0.005
"""Squared Hellinger distance of batches to running statistics that matters: a shift by 0.2 standard deviations."""

GAP = 0.05
"""Distance of outputs above which stale statistics do harm; up to 0.008 in healthy runs, 0.12 to 0.4 in sick ones."""

NOISE = 0.2
"""Share of the outputs' variance that batches decide; 0.04 at 32 values a statistic, 0.25 to 0.5 at 2 to 4."""

TINY = 4.0
"""Values a statistic below which running averages scatter too: that they look stale has the same cause."""

PAIR = 2.0
"""Values a statistic of which only signs are left: x - mean is d / 2 and -d / 2, and their deviation d / 2."""

SETTLED = 60
"""Steps after which a network with such a normalization should have learned in spite of it."""

FEW_VALUES = 16.0

MANY = 8.0
"""Samples a batch from which its distance to the running statistics says whether they agree."""

_MIN_VISITS = 4
_CLEAR_ICC, _LARGE_ICC, _CLEAR_Z = 0.05, 0.15, 4.0


def _are_alike(view: View) -> bool:
    """Whether inputs of batches are random samples of one population, as far as is known."""
    icc = view.of(None).now("input_icc")
    return icc is None or not (icc.value > _CLEAR_ICC and float(icc.detail["z"] or 0) > _CLEAR_Z)


def _is_on_its_way(view: View, reading: Reading | None) -> bool:
    """Whether an average that was never set back has forgotten more than half of its start, and not yet 99%."""
    if reading is None or reading.detail.get("tracked") is None:
        return False
    momentum, tracked = float(reading.detail["momentum"] or 0), float(reading.detail["tracked"] or 0)
    if not 0 < momentum < 1 or tracked < view.step:
        return False
    left = (1 - momentum) ** tracked
    return bool(0.01 < left < 0.5)


def _judge_running(view: View) -> Verdict | None:
    """ND401: info above a quarter of the threshold, critical above 2.5 times it.

    Only info where batches are unlike (the probe's few are then no population), or where the batches that pass
    now agree with the running statistics: then it is the probe's samples that are out of date.
    """
    reading = view.now("running_distance")
    if reading is None or reading.detail.get("frozen") or not reading.value > view.threshold / 4:
        return None
    e, floor = dict(reading.detail), reading.resolution or 0.0
    batch = _batch_distance(e)
    agrees = batch is not None and batch < view.threshold / 2
    sure = float(e["typical"] or 0) > view.threshold / 2 and reading.value > view.threshold + floor
    severity = Severity.INFO
    if sure and not agrees and _are_alike(view) and not _is_on_its_way(view, reading):
        factor = WORTHLESS / STALE
        severity = Severity.CRITICAL if reading.value > factor * view.threshold else Severity.WARNING
    e |= {"distance": round(reading.value, 5), "resolution": round(floor, 5), "samples": reading.n}
    probed = view.run("probe_samples")
    if probed is not None and (reading.n or 0) >= 2 * probed.last.value:
        e["uses"] = int((reading.n or 0) // probed.last.value)
    return Verdict(severity, reading.value, e)


def _batch_distance(e: Mapping[str, Scalar]) -> float | None:
    """How far batches are from the running statistics; None where theirs are too noisy to tell."""
    distance = e.get("batch_distance")
    return distance if isinstance(distance, float) and float(e["batch_size"] or 0) >= MANY else None


def _cause_of_staleness(e: Mapping[str, Scalar]) -> str:
    """What to change so that running statistics are those of the data."""
    momentum, batch = float(e["momentum"] or 0), _batch_distance(e)
    if momentum < 0.05:
        return (
            f"Raise the momentum from {momentum:g} to 0.1 (0.01 needs 459 steps to forget its initial value, 0.001"
            " needs 4,603)."
        )
    if "uses" in e:
        return (
            f"A batch passes it {e['uses']} times, in different places: its running statistics are of all of them at"
            " once. Give each place a normalization of its own."
        )
    if 0 < float(e.get("batch_size") or 0) < MANY:
        return (
            f"Batches of {e['batch_size']:g} make an average that is never still: use larger ones, or, where they"
            " cannot be, GroupNorm or LayerNorm, which need no batch."
        )
    if batch is not None and batch < float(e["distance"] or 0) / 4:
        return (
            "Training batches do agree with them, so what reaches the layer in evaluation is something else: dropout"
            " or noise in front of it acts in training only. Move that behind the normalization, or make it smaller."
        )
    return (
        "Either batches are not alike (shuffle the training data), or the weights move faster than the average"
        " follows (lower the learning rate towards the end)."
    )


def _advise_running(case: Case) -> Advice:
    e = case.leading.evidence
    sigmas = (8 * float(e["distance"] or 0)) ** 0.5
    message = (
        f"The running statistics of {case.where} are not those of the data: squared Hellinger distance"
        f" {e['distance']}"
        f" to the moments of {e['samples']} samples at the present weights, as much as a shift by"
        f" {sigmas:.2f} standard"
        f" deviations. Evaluation uses them after {e['tracked']} batches of momentum {float(e['momentum'] or 0):g}."
    )
    return Advice(
        message,
        f"{_cause_of_staleness(e)} To repair a trained network, recompute the statistics: reset_running_stats(),"
        " momentum=None, and pass"
        " 1,000 or more shuffled training samples in training mode without gradients (PreciseBN)."
        " It worked when `nndiag/norm_drift/running_distance` is below 0.005 and the evaluation metric rises.",
    )


def _judge_batches(view: View) -> Verdict | None:
    """ND402: z2 over the last 8 visits above 4, and far enough to matter.

    Info where batches are unlike each other or hold fewer than 4 samples.
    """
    series, reading = view.series("batch_z2"), view.now("batch_z2")
    if series is None or reading is None or len(series.recent) < _MIN_VISITS:
        return None
    values = [recent.value for recent in series.recent]
    z2 = statistics.fmean(values)
    if z2 <= view.threshold or statistics.median(values) <= view.threshold / 2:
        return None
    effect = statistics.fmean(float(recent.detail["batch_distance"] or 0) for recent in series.recent)
    if effect <= SMALL / 2:
        return None  # many positions make means exact: what is far in standard errors can be next to nothing
    few = float(reading.detail["batch_size"] or 0) < 4
    agrees = float(reading.detail["batch_distance"] or 0) < STALE  # they did not, and have come nearer since
    sure = effect > STALE and not few and not agrees and _are_alike(view)
    severity = Severity.WARNING if sure else Severity.INFO
    evidence = dict(reading.detail) | {
        "z2": round(z2, 3),
        "visits": len(values),
        "distance": round(effect, 5),
    }
    return Verdict(severity, z2, evidence)


def _advise_batches(case: Case) -> Advice:
    e = case.leading.evidence
    return Advice(
        f"Batch means at {case.where} are {float(e['z2'] or 0):.1f} times farther (squared) from the running"
        " means than"
        f" sampling explains (1 in healthy runs), over {e['visits']} visits; momentum {float(e['momentum'] or 0):g},"
        f" {e['batch_size']} samples a batch.",
        "Either batches are unlike each other (shuffle; augment each sample, not each batch), or the weights move"
        " faster than the running average follows (lower the learning rate, or raise the momentum)."
        " It worked when `nndiag/norm_drift/batch_z2` stays below 2.",
    )


def _is_stale(gap: Reading) -> bool:
    """Whether some layer's running statistics are off, beyond what few samples can show."""
    distance, floor = gap.detail.get("distance"), gap.detail.get("resolution")
    return isinstance(distance, float) and distance > max(STALE, 3 * float(floor or 0))


def _judge_stale(view: View) -> Verdict | None:
    """ND403: outputs differ, and running statistics are stale."""
    gap = view.now("train_eval_gap")
    if gap is None or gap.value <= view.threshold:
        return None
    if not _is_stale(gap):
        return None
    stalest = str(gap.detail["stalest"])
    is_calm = not _are_alike(view) or _is_on_its_way(view, view.of(stalest).now("running_distance"))
    evidence = dict(gap.detail) | {"gap": round(gap.value, 4), "samples": gap.n}
    return Verdict(Severity.INFO if is_calm else Severity.WARNING, gap.value, evidence, (stalest,))


def _advise_stale(case: Case) -> Advice:
    e = case.leading.evidence
    return Advice(
        f"On the same samples, outputs with running statistics are at a squared Hellinger distance of {e['gap']} from"
        f" outputs with the batches' own, and {_percent(e.get('mismatch'))} of predictions differ. The statistics of"
        f" {e['stalest']} are the most out of date ({float(e['distance'] or 0):.3f}).",
        "Recompute the running statistics before evaluation (PreciseBN: reset_running_stats(),"
        " momentum=None, 1,000 or"
        " more training samples in training mode without gradients), and raise the momentum."
        " It worked when `nndiag/norm_drift/train_eval_gap` is below 0.01.",
    )


def _judge_pairs(view: View) -> Verdict | Abstention | None:
    """ND404 of a layer that normalizes pairs: of each it gives 1 and -1, whatever was in them."""
    series = view.series("values_per_statistic")
    if series is None or statistics.median(reading.value for reading in series.recent) > PAIR:
        return None
    if view.step < SETTLED:
        return ABSTAIN
    severity = Severity.INFO if view.has_learned() or view.loss_fell() is None else Severity.WARNING
    return Verdict(severity, None, {"values_per_statistic": series.last.value, "fault": "pairs"})


def _judge_noise(view: View) -> Verdict | Abstention | None:
    """ND404: outputs depend on which other samples are in the batch, statistics are fresh, values are few."""
    gap = view.now("train_eval_gap")
    if gap is None:
        return _judge_pairs(view) if view.layer is not None else None
    noise, values = gap.detail.get("noise_share"), gap.detail.get("values_per_statistic")
    if not isinstance(noise, float) or not isinstance(values, (int, float)) or values > FEW_VALUES:
        return None
    if noise <= view.threshold / 2 or (_is_stale(gap) and values >= TINY):
        return None
    severity = Severity.WARNING if noise > view.threshold and _are_alike(view) else Severity.INFO
    places = tuple(str(gap.detail["fewest"]).split("|"))
    return Verdict(severity, noise, dict(gap.detail) | {"gap": round(gap.value, 4)}, places)


def _advise_pairs(case: Case) -> Advice:
    return Advice(
        f"{case.where} normalizes two values at a time: of any two different ones it makes 1 and -1, so that nothing"
        " but which is larger gets through.",
        "Give it more samples at once: with gradient accumulation a batch of the loop counts, not that of the update."
        " It worked when `nndiag/norm_drift/values_per_statistic` is 16 or more.",
    )


def _advise_noise(case: Case) -> Advice:
    e = case.leading.evidence
    if e.get("fault") == "pairs":
        return _advise_pairs(case)
    values = float(e["values_per_statistic"] or 1)
    return Advice(
        f"A mean and variance of {case.where} rest on {values:.0f} values (samples times positions): which"
        " samples share"
        f" a batch decides {_percent(e['noise_share'])} of the variance of the outputs, and"
        f" {_percent(e.get('mismatch'))}"
        " of predictions differ between training and evaluation mode, although running statistics are up to date.",
        f"Use batches {max(2, round(32 / values))} times as large (gradient accumulation does not help),"
        " synchronized BatchNorm over devices, or GroupNorm or LayerNorm, which"
        " need no batch. It worked when the noise share of `nndiag/norm_drift/train_eval_gap` is below 0.1.",
    )


def _percent(value: Scalar) -> str:
    return f"{float(value):.0%}" if isinstance(value, (int, float)) else "an unknown share"


def _judge_likeness(view: View) -> Verdict | None:
    """ND405: labels of batches unlike, where a layer uses batch statistics; inputs alone are a note.

    Augmentation drawn once a batch makes inputs unlike and need not do harm: inputs count only with large z2, and
    where labels are alike only if predictions in evaluation mode are others.
    """
    compared, icc, labels = (view.now(n) for n in ("batches_compared", "input_icc", "label_dispersion"))
    if compared is None:
        return None
    layers = tuple(filter(None, str(compared.detail["layers"]).split("|")))
    evidence = _likeness(icc, labels) | {"batches": int(compared.value), "batch_norms": len(layers)}
    if labels is not None and labels.value > view.threshold:
        severity = Severity.WARNING if layers else Severity.INFO
        return Verdict(severity, labels.value, evidence)
    if icc is None or icc.value <= _CLEAR_ICC or float(icc.detail["z"] or 0) <= _CLEAR_Z:
        return None
    z2 = float(compared.detail["worst_z2"] or 0)
    grave = icc.value > _LARGE_ICC and bool(layers) and z2 > _CLEAR_Z
    if labels is not None:
        grave = grave and is_mistaken(view)
    severity = Severity.WARNING if grave else Severity.INFO
    return Verdict(severity, None, evidence | {"worst_z2": round(z2, 3)}, is_harmless=not grave)


def _likeness(icc: Reading | None, labels: Reading | None) -> dict[str, Scalar]:
    evidence: dict[str, Scalar] = {}
    if labels is not None:
        evidence |= {"label_chi2_over_df": round(labels.value, 3)} | dict(labels.detail)
    if icc is not None:
        evidence |= {"input_icc": round(icc.value, 4), "input_z": icc.detail["z"]}
        evidence["batch_size"] = icc.detail["batch_size"]
    return evidence


def _advise_likeness(case: Case) -> Advice:
    e = case.leading.evidence
    parts = []
    if "label_chi2_over_df" in e:
        parts.append(
            f"labels differ between batches {e['label_chi2_over_df']} times as much as random batches would"
            f" ({e['classes_in_a_batch']} classes in a batch)"
        )
    if "input_icc" in e:
        parts.append(f"two inputs of one batch correlate by {e['input_icc']}")
    return Advice(
        f"Mini-batches are unlike each other: {', and '.join(parts)}, over {e['batches']} batches. Batch"
        " normalization"
        " takes each batch for the whole population, so what it computes in training does not hold in evaluation."
        if e["batch_norms"]
        else f"Mini-batches are unlike each other: {', and '.join(parts)}, over {e['batches']} batches. No layer uses"
        " batch statistics, so the harm is to the gradient's noise only.",
        "Shuffle: DataLoader(shuffle=True), or check the sampler; shuffle sorted files before sharding. Augmentation"
        " that is drawn once a batch raises the inputs' correlation and need not be harmful: let validation decide."
        " Replacing the normalization does not cure it. It worked when `nndiag/norm_drift/label_dispersion` is near 1"
        " and `nndiag/norm_drift/input_icc` below 0.05.",
    )


RULES = (
    Rule(
        id="ND401",
        name="bn-running-stats-off",
        measure=_NAME,
        summary="running statistics are not those of the data at the present weights",
        reads="running_distance",
        judge=_judge_running,
        advise=_advise_running,
        threshold=STALE,
        explains=("ND402", "ND403"),
    ),
    Rule(
        id="ND402",
        name="bn-batch-vs-running",
        measure=_NAME,
        summary="batches are farther from the running statistics than sampling explains",
        reads="batch_z2",
        judge=_judge_batches,
        advise=_advise_batches,
        threshold=4.0,
        explains=("ND403",),
    ),
    Rule(
        id="ND403",
        name="bn-train-eval-gap",
        measure=_NAME,
        summary="outputs with batch and with running statistics differ, and the latter are stale",
        reads="train_eval_gap",
        judge=_judge_stale,
        advise=_advise_stale,
        threshold=GAP,
    ),
    Rule(
        id="ND404",
        name="bn-batch-noise",
        measure=_NAME,
        summary="too few values a statistic: outputs depend on which samples share a batch",
        reads="train_eval_gap",
        also_reads=("values_per_statistic",),
        judge=_judge_noise,
        advise=_advise_noise,
        threshold=NOISE,
        explains=("ND101", "ND312", "ND401", "ND402", "ND403"),
    ),
    Rule(
        id="ND405",
        name="batches-not-iid",
        measure=_NAME,
        summary="mini-batches are unlike each other",
        reads="batches_compared",
        judge=_judge_likeness,
        advise=_advise_likeness,
        threshold=3.0,
        is_of_run=True,
        explains=("ND101", "ND102", "ND401", "ND402", "ND403", "ND404", "ND407", "ND409", "ND603"),
    ),
    SETTING,
)
