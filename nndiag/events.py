"""What the TensorBoard sink writes for the dashboard, and the dashboard reads: names and the schema version.

Light on purpose: TensorBoard's process imports this, and has no need of PyTorch.
"""

from __future__ import annotations

PLUGIN_NAME = "nndiag"
"""The name of the plugin; it must be the owner of every tag below."""

SCHEMA_VERSION = 1
"""In the metadata of each tag. A dashboard that does not know the version says "upgrade nndiag"."""

LAYERS_TAG = "nndiag/layers"
"""All layers as one JSON text. Names are only ever appended, so that their places stay."""

FINDINGS_TAG = "nndiag/findings"
"""The complete current list of findings as one JSON text: the newest one is enough."""

COVERAGE_TAG = "nndiag/coverage"
"""What was measured, what not and why, as one JSON text."""

ROW_PREFIX = "nndiag/row"
"""One reading of all layers: float32 in the order of the newest list of layers, NaN where there is none."""

RUN_PREFIX = "nndiag/run"
"""One number of the run."""

UNITS_PREFIX = "nndiag/units"
"""The values of the units of one layer."""
