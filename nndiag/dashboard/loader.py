"""What TensorBoard loads first.

TensorBoard calls the entry point without a ``try``: an import that fails here would stop TensorBoard for the
user. Therefore nothing but TensorBoard's own base class is imported, and the plugin itself inside ``load``,
where TensorBoard catches and logs errors.
"""

from __future__ import annotations

from typing import Any

from tensorboard.plugins import base_plugin

from nndiag.events import PLUGIN_NAME

SAMPLES = 1000
"""Visits of a run that TensorBoard keeps, unless the user says otherwise; its own default is 10 or 100."""


class DashboardLoader(base_plugin.TBLoader):  # type: ignore[misc]
    """Makes room for the data, and loads the plugin."""

    def fix_flags(self, flags: Any) -> None:
        """Asks for more samples than an unknown plugin gets; ``--samples_per_plugin=nndiag=0`` keeps all."""
        samples = getattr(flags, "samples_per_plugin", None)
        if isinstance(samples, dict):
            samples.setdefault(PLUGIN_NAME, SAMPLES)

    def load(self, context: Any) -> Any:
        """The plugin."""
        from nndiag.dashboard.plugin import DashboardPlugin

        return DashboardPlugin(context)
