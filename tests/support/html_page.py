"""Reads a report as a browser would, for tests."""

from html.parser import HTMLParser

VOID = {"meta", "br", "input", "link", "img"}

#: Texts that would break out of a page, or into its template, if they were not escaped.
HOSTILE = [
    "<script>alert(1)</script>",
    "</script></style></svg></main><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x=\'',
    "&lt;b&gt; &amp; $body ${policy} $$ %s {0}",
    "line\u2028separator\u2029end",
    "<!-- --!> <![CDATA[ ]]>",
    "smile 😀👩‍👩‍👧 done",
]


class Page(HTMLParser):
    """What a browser would take the page to be: tags in balance, attributes, and the text outside style and script."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def count(self, tag: str, kind: str = "") -> int:
        return sum(name == tag and (not kind or kind in (held.get("class") or "").split()) for name, held in self.tags)
