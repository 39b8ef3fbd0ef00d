"""Checkpoints on disk become snapshots; nothing in a file is ever executed.

How to use it::

    from nndiag import checkpoints
    from nndiag.diagnosis import diagnose

    snapshot = checkpoints.read("model.ckpt")                  # one checkpoint
    series = checkpoints.read_series("lightning_logs/version_0/checkpoints")  # or a list of paths; by step
    report = diagnose(series)

``find`` lists the checkpoints at a path without opening them. With a model at hand, pass
``layers=nndiag.layers.discover(model)``: kinds and units are then known; without, they are inferred, and
``snapshot.notes`` say so. Every fault is a ``CheckpointError`` of one line that begins with the path.

Read: files of ``torch.save`` (zip and the older single pickle), Lightning ``.ckpt``, safetensors, folders of
Hugging Face (sharded or not). Refused, with what to do: TorchScript, exported programs,
``torch.distributed.checkpoint``, DeepSpeed folders, pickled modules.

A snapshot holds row signatures, the state of normalizations, and the sizes of parameters, never weights. Its
``facts``: ``step_from`` (who says the step; "unknown" when nobody does), ``format``, ``tensors``, ``numbers``,
``dtypes``, ``epoch``, ``hyper_parameters`` (the plain ones, as JSON), ``multiples of other units: LAYER``, and of the
optimizer ``lr``, ``weight_decay``, ``optimizer_step`` and ``no gradient so far: LAYER``.

Each file is read in a process of its own (``child``, started by ``processes``) with limits on memory, time and output
(``limits``), by readers that import and call nothing the file names (``pickles``, ``rebuilding``).
"""

from nndiag.checkpoints.limits import Limits
from nndiag.checkpoints.reading import find, read, read_series

__all__ = ["Limits", "find", "read", "read_series"]
