"""What a simulated annotator sees of a labelling page: the form's hidden fields, and the text behind each letter."""

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Page:
    """`kind` is "task", "done" or another page's; `texts` maps the letters to the answers' texts."""

    kind: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._form = ""
        self._letter = ""
        self._plain = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if found.get("id") == "page":
            self.page.kind = found.get("data-page", "")
        if tag == "form":
            self._form = found.get("action", "")
        if tag == "input" and found.get("type") == "hidden" and self._form == "/task":
            self.page.fields.setdefault(found["name"], found.get("value", ""))
        self._letter = found.get("data-letter", self._letter)
        self._plain = tag == "pre" and bool(self._letter)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = ""
        if tag == "section":
            self._letter = ""
        if tag == "pre":
            self._plain = False

    def handle_data(self, data: str) -> None:
        if self._plain and self._letter:
            self.page.texts[self._letter] = self.page.texts.get(self._letter, "") + data


def read_page(html: str) -> Page:
    """The page that a response's body holds."""
    reader = _Reader()
    reader.feed(html)
    texts = {letter: text.strip() for letter, text in reader.page.texts.items()}
    return Page(reader.page.kind, reader.page.fields, texts)
