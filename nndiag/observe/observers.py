"""The three ways to look at a model, put together: probe, stream, weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from torch import Tensor, nn

from nndiag import compat
from nndiag.findings import Scalar
from nndiag.guard import Guard
from nndiag.layers import discover, named_layers
from nndiag.measures import Need
from nndiag.observe.batches import BatchWindow
from nndiag.observe.buffers import NormObserver, training_statistics
from nndiag.observe.burst import Burst
from nndiag.observe.experiments import dropout_masks
from nndiag.observe.loss_graph import LossForm, loss_form
from nndiag.observe.observation import Observation
from nndiag.observe.probe import Experiment, Probe
from nndiag.observe.stream import ANSWERS, Stream
from nndiag.observe.taps import TapReader
from nndiag.observe.taps.table import Variant
from nndiag.observe.unregistered import Unregistered
from nndiag.observe.updates import UpdatesObserver
from nndiag.observe.values import Refusal
from nndiag.observe.weights import WeightsObserver
from nndiag.observe.wiring import Wiring
from nndiag.options import MonitorOptions
from nndiag.snapshot import Gap, Key, Tap
from nndiag.statistics import Answers, BatchDrift, Disagreement

MASKS = 10
"""Replays with dropout masks in one experiment."""

ROWS = 512
"""Rows of the network's output that experiments compare."""

_ENTRIES = 1 << 20
_FEWEST_ROWS = 64
_FEWEST = 8
_NAMED = 4


class Observers:
    """What looks at one model, and what it has seen since the last visit."""

    def __init__(
        self,
        root: nn.Module,
        options: MonitorOptions,
        needs: frozenset[Need],
        guard: Guard,
        clock: Callable[[], float],
    ) -> None:
        layers = discover(root)
        options.selection.check_layers(layers)
        self._root, self._needs, self._guard = root, needs, guard
        self._keeps = options.selection.keeps_layer
        self.wiring = Wiring(layers)
        self.probe = Probe(root, samples=options.probe_samples, clock=clock) if options.probe else None
        self.stream = Stream(
            root, self.wiring, needs, self._keeps, functools.partial(guard.report, "the stream")
        )
        kept = {name: info for name, info in layers.items() if self._keeps(name)}
        self.weights = WeightsObserver(root, kept, needs)
        self.updates = UpdatesObserver(
            root, {alias: info.name for info in layers.values() for alias in info.aliases}, self._keeps
        )
        self.unregistered = Unregistered(root)
        self.norms = NormObserver(root, kept)
        self.batches = BatchWindow()
        self.burst = Burst(root, kept) if Need.SHIFT_ORIGIN in needs else None
        self.is_recording = False
        self._has_tape = False
        self._batches = 0
        self._seen = Observation()
        self._form = LossForm()
        self._evaluated: Tensor | None = None
        self._output_rows = 0

    @property
    def refusal(self) -> str | None:
        """Why the probe is off, if it is."""
        if self.probe is None or self.probe.refusal is None:
            return None
        return f"{self.probe.refusal.reason} ({self.probe.refusal.code})"

    @property
    def probe_state(self) -> str:
        """The probe in one word."""
        if self.probe is None:
            return "off"
        if self.probe.refusal is not None:
            return f"refused: {self.probe.refusal.code}"
        return f"{self.probe.n} samples" if self.probe.certified else "not certified"

    @property
    def samples(self) -> str | None:
        """Names the probe's set of samples once it is final; it changes when another batch is recorded."""
        if self.probe is None or not (self.probe.certified and self.probe.is_complete):
            return None
        return f"{self.probe.n} samples"

    def attach_stream(self, *, gradients: bool) -> None:
        """Puts the stream's hooks in place, but in no batch in which a compiled function may be traced first."""
        self._batches += 1
        if self._batches > 1 or not compat.compile_backend_in_use():
            self.stream.attach(gradients=gradients)

    def arm_probe(self) -> None:
        """Makes the probe record the coming batch, if it still needs one."""
        if self.probe is not None and not (self.is_recording or self._has_tape) and self.probe.wants_capture:
            if _is_sharded(self._root):
                reason = "parameters are spread over processes, which a replay would have to bring together"
                self.probe.refusal = Refusal("collective-in-forward", reason)
                return
            self.is_recording = True
            self.probe.arm()

    def disarm_probe(self) -> None:
        """Takes the recorder's hooks off; what it recorded waits to be certified."""
        if self.probe is not None and self.is_recording:
            self.probe.disarm()
            self.is_recording, self._has_tape = False, True

    def settle_probe(self, time_limit_s: float | None = None) -> None:
        """Ends the recording and lets the probe certify what it has, before weights change.

        Args:
            time_limit_s: What a visit may take; decides on the number of samples.
        """
        self.disarm_probe()
        if self.probe is not None and self._has_tape:
            self._has_tape = False
            self.probe.time_limit_s = time_limit_s
            self.probe.certify()

    def replay(self, step: int, *, goes_on: bool) -> None:
        """One visit of the probe.

        Args:
            step: The step that is visited.
            goes_on: Whether the next step is visited too.
        """
        probe = self.probe
        if probe is None or not probe.certified:
            self.stream.stands_in_for_probe = probe is None or probe.refusal is not None
            return
        if self.burst is None:
            self._evaluate(self._play(probe))
        else:
            again = functools.partial(self.burst.replayed, step=step, keeps=goes_on)
            self._evaluate(self._play(probe, experiment=again))
            if probe.refusal is not None:  # nothing of a recorded batch is kept
                self.burst = None
        self.stream.stands_in_for_probe = probe.refusal is not None
        for key in probe.stale:
            self._seen.notes.append(f"{key} is replayed on inputs frozen when they were recorded")
        self._seen.notes += [*probe.pinned, *probe.notes]

    def experiment(self) -> None:
        """Replays that differ from evaluation in one thing, where a measure asks for them."""
        probe = self.probe
        if probe is None or not probe.certified:
            return
        norms = self.norms.in_training()
        if Need.BATCH_STATISTICS in self._needs and self.norms.keep_statistics:
            try:
                trained = self._play(probe, "batch", functools.partial(training_statistics, norms=norms))
                if norms:
                    self._compare("disagreement/batch", [self._evaluated, _logits(trained)])
            except Exception as error:  # one value a channel, for one: evaluation is not affected
                self._seen.notes.append(f"no replay with the batch's own statistics: {error}"[:200])
        roles = {info.role for info in self.wiring.layers.values()}
        if Need.DROPOUT_MASKS in self._needs and "dropout" in roles:
            masks = (functools.partial(dropout_masks, seed=seed) for seed in range(MASKS))
            samples = max(_FEWEST, -(-probe.n * ROWS // max(1, self._output_rows)))
            replays = (probe.replay(experiment=mask, samples=samples) for mask in masks)
            self._compare("disagreement", [_logits(played) for played in replays])

    def _evaluate(self, played: list[list[Tensor]]) -> None:
        """Keeps some rows of the network's output, to compare experiments with."""
        self._evaluated = _logits(played)
        self._output_rows = max((t.numel() // t.shape[-1] for t in _outputs(played)[:1]), default=0)

    def _compare(self, name: str, outputs: Sequence[Tensor | None]) -> None:
        """Some rows of the output of several replays; filed under the layer that makes the output."""
        layer = next((info.name for info in self.wiring.layers.values() if info.is_output), None)
        known = [logits for logits in outputs if logits is not None]
        if layer is not None and len(known) == len(outputs) and len({logits.shape for logits in known}) == 1:
            self._seen.add(Key(layer, "output", "probe", name), Disagreement.of(known))

    def _play(
        self, probe: Probe, variant: Variant = "", experiment: Experiment = nullcontext
    ) -> list[list[Tensor]]:
        rows = None if probe.whole else probe.rows
        reader = TapReader(self.wiring, self._needs, "probe", self._keeps, rows, variant, burst=self.burst)
        outputs = probe.replay(reader, experiment)
        reader.finish_pass()
        self._seen.absorb(reader.seen)
        return outputs

    def read_weights(
        self,
        *,
        first: bool,
        compare: bool,
        only: Sequence[Tensor] | None,
        gradients: bool,
        scale: float,
        idle: Sequence[Tensor] = (),
    ) -> None:
        """Sizes of parameters and gradients as they are now; signatures, where units are compared."""
        if first or compare:
            seen = self.weights.read(first=first, only=only, gradients=gradients, skip=self._seen.statistics)
            self._seen.absorb(seen)
        if Need.PARAMETER_FLOW in self._needs:
            self._seen.absorb(self.updates.before(only=only, scale=scale, gradients=gradients, idle=idle))
        if Need.NORM_STATE in self._needs:
            self._seen.absorb(self.norms.read())

    def read_updates(self) -> None:
        """What the optimizers' steps made of the parameters."""
        self._seen.absorb(self.updates.after())

    def update_facts(self) -> dict[str, Scalar]:
        """What is updated by nobody: layers in no optimizer, at a rate of 0, or out of every optimizer's sight."""
        facts: dict[str, Scalar] = {f"not in the optimizer: {layer}": True for layer in self.updates.unowned}
        facts |= {f"learning rate 0: {layer}": True for layer in self.updates.idle}
        left = self.unregistered.still()
        if self.unregistered.had_gradients:
            names, more = list(left)[:_NAMED], len(left) - _NAMED
            facts["unregistered"] = ", ".join(names) + (f" and {more} more" if more > 0 else "")
            facts["unregistered_entries"] = sum(left.values())
        return facts

    def note_labels(self, labels: object) -> None:
        """Class labels of the batch that has just ended, to see whether batches are alike."""
        if Need.BATCH_MEANS in self._needs:
            self.batches.note_labels(labels)

    def note_loss(self, loss: object) -> None:
        """What the loss of a visited step is made of, where it still has its graph."""
        if isinstance(loss, Tensor) and loss.grad_fn is not None and loss.numel() == 1:
            self._form = loss_form(loss)

    def loss_facts(self, loss: object, value: float | None, seen: Observation) -> dict[str, Scalar]:
        """What the loss is to be measured by, and whether it squashes what was squashed already.

        Args:
            loss: As it was told.
            value: The loss as a number.
            seen: Of this visit; what the network answered is taken out.
        """
        self.note_loss(loss)
        form, self._form = self._form, LossForm()
        answers, guessing = seen.statistics.pop(ANSWERS, None), form.guessing
        facts: dict[str, Scalar] = {}
        if form.form == "squared error" and value is not None and isinstance(answers, Answers):
            found = answers.cpu()
            guessing = found.mean_square if found.agrees(value) else None
        if guessing is not None:
            facts["loss_of_guessing"] = guessing
        if form.form is not None:
            facts["loss_form"] = form.form
        if form.squashed is not None:
            facts |= {"squashed_twice": form.squashed, "squashed_at": self._owner(form.parameter)}
        return facts

    def _owner(self, parameter: Tensor | None) -> str | None:
        """The layer that holds a parameter."""
        owners = (
            name
            for name, module in named_layers(self._root)
            if any(own is parameter for own in module._parameters.values())
        )
        return next(owners, None) if parameter is not None else None

    def take(self) -> Observation:
        """Everything seen since the last visit."""
        seen, self._seen = self._seen, Observation()
        seen.absorb(self.stream.take())
        self._evaluated = None
        self.batches.extend(seen)
        drifts = {k.layer: s for k, s in seen.statistics.items() if isinstance(s, BatchDrift)}
        self.norms.note_batch_sizes({name: round(drift.batch_size) for name, drift in drifts.items()})
        unseen = "not called in the observed steps"
        if compat.compile_backend_in_use():
            unseen += ", or only inside compiled code"
        for info in self.wiring.unseen():
            tap: Tap = "input" if info.role in ("activation", "attention") else "output"
            seen.gaps.setdefault(Gap(info.name, tap, "stream"), unseen)
        return seen


def _outputs(played: list[list[Tensor]]) -> list[Tensor]:
    """Those of a replay's last call that could be predictions."""
    return [t for t in (played or [[]])[-1] if t.is_floating_point() and t.dim() > 1 and t.numel()]


def _logits(played: list[list[Tensor]]) -> Tensor | None:
    """[rows, classes] the network's output at evenly spaced rows, so many as are compared."""
    output = next(iter(_outputs(played)), None)
    if output is None:
        return None
    rows = output.flatten(0, -2)
    most = min(ROWS, max(_FEWEST_ROWS, _ENTRIES // rows.shape[1]))
    return rows[:: -(-len(rows) // most)].clone()


def _is_sharded(root: nn.Module) -> bool:
    """Whether any parameter is a DTensor; by name, since its module is slow to import."""
    return any(kind.__name__ == "DTensor" for p in root.parameters() for kind in type(p).__mro__)
