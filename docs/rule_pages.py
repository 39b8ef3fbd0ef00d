"""Writes a page for each rule, and their index, from the code; links every rule that some page names."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from docutils import nodes

from nndiag.findings import Severity
from nndiag.measures import MEASURES, RULES
from nndiag.rules import Rule

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = "rules"

_CHECK = "It worked when "
_ID = re.compile(r"\bND\d{3}\b")
_PLACES = {
    "worst": "the worst layer",
    "earliest": "the first layer in the order in which layers run",
}
_PERSISTENCE = {
    "at once": "at the first visit that shows it",
    "two of three": "when two of three visits show it",
}
_CONCLUSIVE = "; at once where it is far beyond what chance can show"


@cache
def sources(function: FunctionType) -> tuple[ast.AST, ...]:
    """A function of a rule, and the functions of measures that it calls, as syntax trees."""
    found: dict[FunctionType, ast.AST] = {}
    waiting = [function]
    while waiting:
        current = waiting.pop()
        if current in found or not current.__module__.startswith("nndiag.measures"):
            continue
        found[current] = ast.parse(textwrap.dedent(inspect.getsource(current)))
        names = {node.id for node in ast.walk(found[current]) if isinstance(node, ast.Name)}
        called = [current.__globals__.get(name) for name in sorted(names)]
        waiting += [each for each in called if isinstance(each, FunctionType)]
    return tuple(found.values())


def nodes_of(function: Any) -> Iterator[ast.AST]:
    """Every node of these trees."""
    for tree in sources(function):
        yield from ast.walk(tree)


def severities(rule: Rule) -> list[Severity]:
    """The words that the code of a rule can use, the gravest first."""
    used = {
        node.attr
        for node in nodes_of(rule.judge)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Severity"
    }
    return [severity for severity in reversed(Severity) if severity.name in used]


def is_ever_conclusive(rule: Rule) -> bool:
    """Whether one visit can be enough for it."""
    return any(
        keyword.arg == "is_conclusive"
        for node in nodes_of(rule.judge)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
    )


def checks(rule: Rule) -> list[str]:
    """The sentences of its advice that say how to see that it worked, without their beginning."""
    texts = [text for node in nodes_of(rule.advise) if _CHECK in (text := _text(node))]
    found = {text.partition(_CHECK)[2] for text in texts}
    nearer = {check.replace(" of this layer", "") for check in found if " of this layer" in check}
    return sorted(check for check in found - nearer if not any(check != o and check in o for o in found))


def _text(node: ast.AST) -> str:
    """A string of the code; what is filled in stands in braces."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if not isinstance(node, ast.JoinedStr):
        return ""
    parts = [_text(part) or f"{{{ast.unparse(part)}}}" for part in node.values]
    return "".join(parts)


def told_on_its_measures_page(rule: Rule, docs: Path) -> str:
    """What the page of the measure says of a rule, with links that hold from the page of the rule."""
    page = (docs / "measures" / f"{rule.measure}.md").read_text(encoding="utf-8")
    named = page.find(f"**{rule.id} {rule.name}")
    if named < 0:
        return _linked_from_here(_told_in_a_table(rule, page))
    begin = page.rfind("\n\n", 0, named) + 2  # two rules may share a paragraph
    end = re.compile(r"^(?=\*\*ND\d{3} |## )", re.MULTILINE).search(page, named + 1)
    return _linked_from_here(page[begin : None if end is None else end.start()].strip())


def _told_in_a_table(rule: Rule, page: str) -> str:
    """What the section on rules begins with, and the row of the rule."""
    table = rows(page, "rule", rule)
    if not table:
        return ""
    section = page.partition("\n## Rules\n")[2].partition(table[0])[0]
    return f"{section.strip()}\n\n" + "\n".join(table)


def _linked_from_here(told: str) -> str:
    local = re.sub(r"\]\((?!\w+://|#|\.\./)([^)]+)\)", r"](../measures/\1)", told)
    return local.replace("](../../", "](../")


def rows(page: str, first: str, rule: Rule) -> list[str]:
    """The head and the rows of a rule, of the table of a page whose first column has this name."""
    lines = page.splitlines()
    begin = next((place for place, line in enumerate(lines) if line.startswith(f"| {first} |")), len(lines))
    end = next((place for place in range(begin, len(lines)) if not lines[place].startswith("|")), len(lines))
    cells = [(line, [cell.split() for cell in line.split("|")]) for line in lines[begin + 2 : end]]
    own = [line for line, words in cells if any(cell[:1] == [rule.id] for cell in words)]
    return [*lines[begin : begin + 2], *own] if own else []


def explained_by(rule: Rule) -> list[str]:
    """The rules whose findings this one's are put under."""
    return [other.id for other in RULES.values() if rule.id in other.explains]


def _named(ids: Iterable[str]) -> str:
    return ", ".join(f"[{each} {RULES[each].name}]({each}.md)" for each in sorted(ids)) or "none"


def _facts(rule: Rule) -> Iterator[str]:
    when = _PERSISTENCE[rule.persistence] + (_CONCLUSIVE if is_ever_conclusive(rule) else "")
    yield f":Measure: [{rule.measure}](../measures/{rule.measure}.md)"
    yield f":Judges: `nndiag/{rule.measure}/{rule.reads}`"
    yield f':Threshold: {rule.threshold:g}; another one with `thresholds={{"{rule.id}": ...}}`'
    yield f":Severity: {', '.join(severities(rule))}"
    yield f":Speaks: {when}"
    yield f":Names first: {_PLACES[rule.lead]}"
    yield f":Explains: {_named(rule.explains)}"
    yield f":Explained by: {_named(explained_by(rule))}"


def _checked(rule: Rule) -> Iterator[str]:
    found = checks(rule)
    yield "## How to see that it worked\n"
    if not found:
        yield "It says something about nndiag, not about the network: there is nothing to cure.\n"
        return
    yield "Every finding says what to change in its own case. It worked when\n"
    yield from (f"- {check}" for check in found)
    if len(found) > 1:
        yield "\nWhich one, the finding says."
    yield ""


def _evidence(rule: Rule, docs: Path) -> Iterator[str]:
    page = (docs / "evidence.md").read_text(encoding="utf-8")
    figures, advice = rows(page, "rule", rule), rows(page, "program", rule)
    yield "## How often it was right\n"
    if not figures and not advice:
        yield "There are no figures for it on the page of [evidence](../evidence.md)."
        return
    if figures:
        yield from ("On the small networks of the clinic, in sample:\n", *figures, "")
    if advice:
        yield from ("Programs in which it led, and what following its advice brought:\n", *advice, "")
    yield "[Evidence](../evidence.md) says how these figures came about, and what they do not show."


def page_of(rule: Rule, docs: Path) -> str:
    """The page of one rule."""
    told = told_on_its_measures_page(rule, docs)
    parts = [
        f"# {rule.id} {rule.name}\n",
        f"{rule.summary[0].upper()}{rule.summary[1:]}.\n",
        *_facts(rule),
        "",
    ]
    if told:
        parts += ["## When it speaks\n", told, ""]
        parts += [f"The formula, limits and references: [{rule.measure}](../measures/{rule.measure}.md).\n"]
    parts += [*_checked(rule), *_evidence(rule, docs)]
    return "\n".join(parts) + "\n"


def index() -> str:
    """The page that lists them."""
    parts = [
        "# Rules\n",
        "A rule turns readings and their history into a finding. Ids are stable for ever; new ones are appended."
        " `nndiag rules` lists them on the terminal, `nndiag explain ND301` says one in short. These pages are made"
        " from the code each time the site is built.\n",
        "*critical*: the network will not train, or its results are wrong. *warning*: likely harm, with measured"
        " evidence. *info*: worth knowing.\n",
    ]
    for measure in MEASURES.values():
        parts += [
            f"## {measure.name}\n",
            f"{measure.summary}\n",
            "| rule | says | severity |",
            "|---|---|---|",
        ]
        for rule in sorted(measure.rules, key=lambda rule: rule.id):
            words = ", ".join(severities(rule))
            parts.append(f"| [{rule.id} {rule.name}]({rule.id}.md) | {rule.summary} | {words} |")
        parts.append("")
    names = "\n".join(RULES)
    parts.append(f"```{{toctree}}\n:hidden:\n\n{names}\n```\n")
    return "\n".join(parts)


def pages(docs: Path) -> dict[str, str]:
    """Every page by its file."""
    return {"index.md": index(), **{f"{rule.id}.md": page_of(rule, docs) for rule in RULES.values()}}


def write(docs: Path) -> None:
    """Writes the pages that have changed, and removes those of rules that are gone."""
    folder, wanted = docs / FOLDER, pages(docs)
    folder.mkdir(exist_ok=True)
    for file in folder.glob("*.md"):
        if file.name not in wanted:
            file.unlink()
    for name, text in wanted.items():
        file = folder / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


_UNLINKED = (nodes.literal, nodes.literal_block, nodes.reference, nodes.title, nodes.math, nodes.raw)


def _link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Makes a link of each id in running text."""
    for text in list(doctree.findall(nodes.Text)):
        if not _ID.search(text) or _is_inside(text, _UNLINKED):
            continue
        text.parent.replace(text, list(_parts(app, str(text), docname)))


def _is_inside(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def _parts(app: Sphinx, text: str, docname: str) -> Iterator[nodes.Node]:
    end = 0
    for match in _ID.finditer(text):
        page = f"{FOLDER}/{match.group()}"
        if match.group() in RULES and page != docname:
            yield nodes.Text(text[end : match.start()])
            uri = app.builder.get_relative_uri(docname, page)
            yield nodes.reference("", match.group(), refuri=uri, internal=True)
            end = match.end()
    yield nodes.Text(text[end:])


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir)))
    app.connect("doctree-resolved", _link)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
