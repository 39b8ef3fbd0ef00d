"""DiagnosticsMonitor: nndiag as a callback of Lightning's Trainer.

``lightning.pytorch`` and ``pytorch_lightning`` have callback classes of their own: the monitor derives from
that of each namespace that is loaded when nndiag is first asked for it.
"""

from __future__ import annotations

import importlib
import logging
import operator
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nndiag import compat
from nndiag.diagnosis import as_it_stands
from nndiag.errors import ConfigurationError
from nndiag.guard import Guard, guarded
from nndiag.layers import discover
from nndiag.memory import Memory
from nndiag.options import MonitorOptions
from nndiag.report import Report
from nndiag.session import DEFAULT_CADENCE, Session
from nndiag.sinks import sinks_for
from nndiag.switch import is_enabled

if TYPE_CHECKING:
    from lightning.pytorch import Callback as _Callback
else:

    def _callback_class() -> type:
        """One class below the ``Callback`` of every loaded namespace."""
        names = ("lightning.pytorch", "pytorch_lightning")
        loaded = [name for name in names if name in sys.modules] or ["lightning.pytorch"]
        bases = [importlib.import_module(name).Callback for name in loaded]
        return type("_Callback", tuple(dict.fromkeys(bases)), {})

    _Callback = _callback_class()

_log = logging.getLogger("nndiag")


class DiagnosticsMonitor(_Callback):
    """Watches the training of a ``LightningModule`` and says what is wrong, where, and what to do.

    Args:
        every_n_train_steps: Steps between regular visits; None takes the Trainer's ``log_every_n_steps``.
            Start-up visits come on top.
        measures: Names of measures to take; None means all but those on demand (``shift_origin``).
        layers: Glob patterns on layer names, "!pattern" excludes; None means all.
        select: Rule ids or prefixes to judge ("ND2", "ND202:backbone.*"); None means all.
        ignore: Rule ids or prefixes not to judge.
        thresholds: New thresholds by rule id, as {"ND201": 0.8}.
        probe: Whether recorded batches may be replayed in a sandbox.
        probe_samples: Samples to replay at a visit, at most.
        max_overhead: Largest share of the run's time for regular visits; beyond it they are thinned. None
            switches thinning off.
        log_dir: Where the record goes (and event files, when no TensorBoard logger is there); None takes
            the logger's directory. With several processes, only rank 0 is watched unless this is given: then
            each records there (``nndiag.rank1.jsonl``), and ``nndiag report`` puts their findings together.
        console: Whether to print a summary at the end of fit.
        html: Whether to write an HTML report beside the record, or the path to write it to.
        stop_on: Severity at which ``trainer.should_stop`` is set; None never stops. Not used with several
            processes: they would have to agree, and nndiag does not let them talk.
        merge_ranks: Of several processes, whether rank 0 shows the findings of all while they train. They are
            passed on through the store that the processes met by, without a collective.
        strict: Whether nndiag's own faults raise (for tests).

    Raises:
        ConfigurationError: an option is wrong; a layer pattern is checked when fit starts.
    """

    def __init__(
        self,
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
        log_dir: str | None = None,
        console: bool = True,
        html: bool | str = False,
        stop_on: str | None = None,
        merge_ranks: bool = False,
        strict: bool = False,
    ) -> None:
        self.options = MonitorOptions.checked(
            every_n_train_steps=every_n_train_steps,
            measures=measures,
            layers=layers,
            select=select,
            ignore=ignore,
            thresholds=thresholds,
            probe=probe,
            probe_samples=probe_samples,
            max_overhead=max_overhead,
            log_dir=log_dir,
            console=console,
            html=html,
            stop_on=stop_on,
            merge_ranks=merge_ranks,
            strict=strict,
        )
        self.guard = Guard(strict)
        self._session: Session | None = None
        self._report = Report.empty()
        self._wrapped: tuple[nn.Module, Any] | None = None
        self._has_backward = False
        self._key = f"{type(self).__name__} {id(self)}"
        self._saved: dict[str, Any] = {}
        self._resumed: dict[str, Any] = {}

    @property
    def report(self) -> Report:
        """The report as it stands, also after an exception or Ctrl-C."""
        session = self._session
        return as_it_stands(self.guard, session.report if session is not None else None, self._report)

    def __getstate__(self) -> dict[str, Any]:
        """A copy or another process gets the options and the report, never the run."""
        return self.__dict__ | {"_session": None, "_wrapped": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy goes by a name of its own."""
        self.__dict__ |= state | {"_key": f"{type(self).__name__} {id(self)}"}

    # Read by code in C: Lightning asks for it where nothing of ours could be guarded.
    state_key = property(
        operator.attrgetter("_key"),
        doc="Under which a checkpoint holds the state: no two monitors of a Trainer share one, also equal ones.",
    )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run should know: plain types and one tensor, less than 64 kB."""
        if self._session is not None:
            self._saved = self.guard.call("the memory", self._session.memory) or {}
        return dict(self._saved)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what ``state_dict`` gave; it is read when training starts."""
        self._resumed = self._saved = state_dict

    @guarded("the monitor", begins=True)
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Learns which of the Trainer's monitors this is; a run without a checkpoint resumes nothing."""
        monitors = [each for each in trainer.callbacks if isinstance(each, DiagnosticsMonitor)]
        place = next((place for place, each in enumerate(monitors) if each is self), None)
        if place is not None:
            self._key = f"{type(self).__name__}.{place}" if place else type(self).__name__
        self._resumed = {}

    @guarded("the monitor", lets_out=(ConfigurationError,))
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Checks the layer patterns, before anything has run."""
        self._close()
        if self.options.selection.layers is not None and is_enabled():
            self.options.selection.check_layers(discover(pl_module))

    @guarded("the monitor")
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts a session."""
        resumed, self._resumed = self._resumed, {}
        is_heard = self.options.log_dir is not None or self.options.merge_ranks
        if not is_enabled() or not (trainer.is_global_zero or is_heard):
            return
        if self.options.stop_on is not None and trainer.world_size > 1 and trainer.is_global_zero:
            _log.warning(
                "stop_on is not used: several processes train, and they would have to agree to stop."
            )
        every_n = self.options.every_n or trainer.log_every_n_steps or DEFAULT_CADENCE
        self._session = Session(
            pl_module,
            self.options.with_cadence(every_n),
            total_steps=compat.total_steps(trainer),
            sinks=self.guard.call("the sinks", sinks_for, trainer, self.options) or (),
            guard=self.guard,
        )
        memory = Memory.recalled(resumed) if resumed else None
        if memory is not None:
            self._session.recall(memory)

    @guarded("the monitor")
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Attaches what this step needs."""
        self._has_backward = False
        if self._session is None:
            return
        self._session.begin_batch(compat.logging_step(trainer))
        if self._session.is_recording:
            self._wrap(pl_module, self._session)

    @guarded("the monitor")
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Notes that gradients are fresh."""
        self._has_backward = True

    @guarded("the monitor")
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Looks at parameters and gradients before they are used."""
        if self._session is None:
            return
        automatic = bool(pl_module.automatic_optimization)
        if automatic and self._session.has_updated:
            return  # a closure that is called again (LBFGS) looks once
        self._unwrap()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._session.before_update(
            optimizer=optimizer,
            gradients=self._has_backward,
            certify=automatic,
            scale=compat.gradient_scale(optimizer, scaler),
        )

    @guarded("the monitor")
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Detaches, and files what a visited step brought."""
        self._unwrap()
        if self._session is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        self._session.end_batch(loss if isinstance(loss, Tensor) else None, _labels(batch))
        if self._session.should_stop and trainer.world_size == 1:
            trainer.should_stop = True

    @guarded("the monitor")
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Ends the session."""
        self._close()

    @guarded("the monitor", ends=True)
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Ends the session after an error of the user's, or Ctrl-C."""
        self._close()

    @guarded("the monitor", ends=True)
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leaves nothing behind."""
        self.release()

    def release(self) -> None:
        """Takes every hook out of the model."""
        self._unwrap()
        if self._session is not None:
            self._session.release()

    def _close(self) -> None:
        """Keeps the report and lets go of the model."""
        self.release()
        session, self._session = self._session, None
        if session is not None:
            self._saved = self.guard.call("the memory", session.memory) or {}
            report = self.guard.call("the report", session.close)
            self._report = report if isinstance(report, Report) else self._report

    def _wrap(self, module: Any, session: Session) -> None:
        """Puts the recorder around ``training_step`` for one batch, as an attribute of the instance."""
        self._unwrap()
        step = module.training_step
        self._wrapped = (module, module.__dict__.get("training_step"))

        def begin() -> None:
            self._unwrap()  # a closure that is called again is not recorded again
            session.open_window(glue=True)

        surrounded = self.guard.surround("the probe", step, begin, session.close_window)
        module.__dict__["training_step"] = surrounded

    def _unwrap(self) -> None:
        if self._wrapped is None:
            return
        module, own = self._wrapped
        if own is None:
            module.__dict__.pop("training_step", None)
        else:
            module.__dict__["training_step"] = own
        self._wrapped = None


def _labels(batch: Any) -> Tensor | None:
    """The only integer tensor of a batch with one entry a sample; None when there is none, or several."""
    items = (
        batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    )
    tensors = [item for item in items if isinstance(item, Tensor) and item.dim()]
    sizes = {tensor.shape[0] for tensor in tensors}
    flat = [t for t in tensors if t.dim() == 1 and not t.is_floating_point() and not t.is_complex()]
    return flat[0] if len(flat) == 1 and len(sizes) == 1 else None
