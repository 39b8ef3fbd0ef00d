"""The plugin: answers the page's requests from what TensorBoard has loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from nndiag.dashboard import views
from nndiag.dashboard.series import Events, Run
from nndiag.events import PLUGIN_NAME
from nndiag.page.assets import load_assets

App = Callable[..., Any]
_JSON, _BINARY = "application/json", "application/octet-stream"


class DashboardPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """Serves data below ``/data/plugin/nndiag/``. It reads through TensorBoard's data provider alone."""

    plugin_name = PLUGIN_NAME

    def __init__(self, context: Any) -> None:
        self._provider = context.data_provider

    def get_plugin_apps(self) -> dict[str, App]:
        """Routes of the data and of the page's files."""
        apps: dict[str, App] = {
            "/runs": self._answering(lambda request: views.runs(self._events(request))),
            "/run": self._answering(lambda request: views.run(self._run(request))),
            "/matrix": self._answering(lambda request: views.matrix(self._run(request), _tag(request))),
            "/curves": self._answering(lambda request: views.curves(self._run(request), _layers(request))),
            "/numbers": self._answering(lambda request: views.numbers(self._run(request))),
            "/units": self._answering(
                lambda request: views.units(self._run(request), request.args.getlist("tag"))
            ),
        }
        return apps | {f"/static/{name}": _asset(*asset) for name, asset in load_assets().items()}

    def is_active(self) -> bool:
        """No: TensorBoard asks only where it has found no data of this plugin."""
        return False

    def frontend_metadata(self) -> Any:
        """The page, and the name of the tab."""
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="NNDiag")

    def _answering(self, answer: Callable[[Any], dict[str, Any] | bytes]) -> App:
        @wrappers.Request.application
        def app(request: Any) -> Any:
            content = answer(request)
            if isinstance(content, bytes):
                return http_util.Respond(request, content, _BINARY)
            return http_util.Respond(request, json.dumps(content, allow_nan=False), _JSON)

        return app

    def _events(self, request: Any) -> Events:
        context, experiment = (
            plugin_util.context(request.environ),
            plugin_util.experiment_id(request.environ),
        )
        return Events(self._provider, context, experiment)

    def _run(self, request: Any) -> Run:
        name, events = request.args.get("run"), self._events(request)
        if name is None:
            raise errors.InvalidArgumentError("which run? give ?run=NAME")
        index = events.index(name)
        if name not in index:
            raise errors.NotFoundError(f"no data of nndiag in run {name!r}")
        return Run(events, name, index[name])


def _asset(body: bytes, kind: str) -> App:
    @wrappers.Request.application
    def app(request: Any) -> Any:
        return http_util.Respond(request, body, kind)

    return app


def _tag(request: Any) -> str:
    tag: str = request.args.get("tag", "")
    return tag


def _layers(request: Any) -> list[int]:
    try:
        return [int(text) for text in request.args.getlist("layer")]
    except ValueError as error:
        raise errors.InvalidArgumentError("layers are asked for by their numbers") from error
