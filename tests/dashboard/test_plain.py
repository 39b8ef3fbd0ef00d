"""What nndiag leaves in TensorBoard's own tabs: links from Text, charts under Custom Scalars."""

from __future__ import annotations

import html
import json
import re
from typing import Any
from urllib.parse import unquote

import pytest
from report.samples import HOSTILE, finding
from torch.utils.tensorboard import SummaryWriter

from dashboard.runs import client_of, wait_for, write_run
from nndiag.sinks.tensorboard_layout import custom_scalars_layout
from nndiag.sinks.tensorboard_links import with_links

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

PLUGINS = "/data/plugin"


def answer(client: Any, path: str, **query: str) -> Any:
    """JSON of one of TensorBoard's own tabs."""
    return json.loads(client.get(f"{PLUGINS}/{path}", query_string=query).data)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TensorBoard over a sick run whose writer was given the layout."""
    logdir = tmp_path_factory.mktemp("logs")
    write_run(logdir / "some run" / "v0")
    writer = SummaryWriter(str(logdir / "some run" / "charts"))
    writer.add_custom_scalars(custom_scalars_layout())
    writer.close()
    client, client_kept = client_of(logdir)
    client.kept = client_kept
    wait_for(lambda: len(json.loads(client.get("/data/runs").data)) == 2)
    wait_for(lambda: answer(client, "text/tags").get("some run/v0"))
    return client


def test_the_text_report_links_to_findings_of_its_run(client: Any) -> None:
    texts = answer(client, "text/text", run="some run/v0", tag="nndiag/report/text_summary")
    links = [html.unescape(link) for link in re.findall(r'<a href="([^"]+)"', texts[-1]["text"])]
    assert all(link.startswith("#nndiag&p.nndiag.dir=") for link in links)
    assert all(
        unquote(link).partition("dir=")[2].partition("&")[0].endswith("/some run/v0") for link in links
    )
    assert [link.rpartition("finding=")[2] for link in links[1:]] == ["ND201", "ND202", "ND313"]


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_no_name_gets_into_a_link(kind: str) -> None:
    text = with_links("# nndiag: x\n\nrest\n", (finding(rule=HOSTILE[kind]),), f"/logs/{HOSTILE[kind]}")
    _, line, rest = text.split("\n\n")
    assert rest == "rest\n"
    assert re.fullmatch(r"Look at it in \[the nndiag tab\]\(#nndiag&p\.nndiag\.dir=[\w%.~-]*\)", line)


def test_custom_scalars_find_their_charts(client: Any) -> None:
    layout = wait_for(lambda: answer(client, "custom_scalars/layout"))
    charts = {
        (category["title"], chart["title"]): chart["multiline"]["tag"]
        for category in layout["category"]
        for chart in category["chart"]
    }
    for place, tags in (
        (
            ("nndiag", "findings"),
            [f"nndiag_summary/findings_{each}" for each in ("info", "warning", "critical")],
        ),
        (("nndiag: saturation", "saturated"), ["nndiag_summary/saturation/saturated"]),
    ):
        found = [
            answer(client, "custom_scalars/scalars", run="some run/v0", tag=each) for each in charts[place]
        ]
        assert [tag for each in found for tag in each["tag_to_events"]] == tags
    assert len(charts) > 20
