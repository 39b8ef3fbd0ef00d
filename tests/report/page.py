"""A strict reader of HTML: it knows which element closes which."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "br", "link", "img", "input", "base", "hr"}

TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "section",
        "article",
        "div",
        "span",
    ),
    *("h1", "h2", "h3", "p", "br", "code", "dl", "dt", "dd", "details", "summary"),
    *("table", "thead", "tr", "th", "td", "svg", "path", "circle"),
}

ATTRIBUTES = {
    *("class", "scope", "title", "open", "lang", "charset", "http-equiv", "content", "name", "aria-hidden"),
    *("viewbox", "width", "height", "d", "cx", "cy", "r"),
}

NOT_IN_PARAGRAPH = {
    "p",
    "div",
    "table",
    "dl",
    "details",
    "section",
    "article",
    "main",
    "header",
    "h1",
    "h2",
    "h3",
}


class Page(HTMLParser):
    """Parses a document and keeps its tags in order, its attributes and its text.

    Raises:
        AssertionError: elements are not properly nested, or one is left open.
    """

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text: list[str] = []
        self.styles: list[str] = []
        self.scripts: list[str] = []
        self.declarations: list[str] = []
        self.comments: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not ("p" in self._open and tag in NOT_IN_PARAGRAPH), f"<{tag}> ends the <p> it is in"
        self.tags.append((tag, tuple(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        kinds = {"style": self.styles, "script": self.scripts}
        kinds.get(self._open[-1] if self._open else "", self.text).append(data)

    def handle_decl(self, decl: str) -> None:
        self.declarations.append(decl)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(data)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)

    @property
    def words(self) -> str:
        """All text outside style sheets and scripts, white space joined."""
        return " ".join(" ".join(self.text).split())

    @property
    def attributes(self) -> list[tuple[str, str | None]]:
        """Every attribute of every element."""
        return [pair for _, attributes in self.tags for pair in attributes]

    def values(self, tag: str, attribute: str) -> list[str | None]:
        """Every value of an attribute of a kind of element."""
        return [value for name, attrs in self.tags for key, value in attrs if (name, key) == (tag, attribute)]
