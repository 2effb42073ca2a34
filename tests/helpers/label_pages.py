"""Tasks to label, and a reader for the labelling page as a browser without scripts sees it."""

from html.parser import HTMLParser
from typing import Any

from alignkit.records import Candidate, Content, Payload, Sampling, Task

VOID = {"meta", "link", "input", "br", "hr", "img"}


def label_task(id: str, completions: list[str], prompt: Content = "why?", overlap: int = 1, **more: Any) -> Task:
    """A task with candidates ID-0, ID-1, …"""
    candidates = tuple(
        Candidate(
            id=f"{id}-{n}",
            prompt_id=id,
            prompt=prompt,
            completion=completion,
            policy_revision="secret-policy",
            sampling=Sampling(),
            seed=0,
            prompt_ids=(1,),
            completion_ids=(2,),
            finish_reason="stop",
        )
        for n, completion in enumerate(completions)
    )
    gold: Payload | None = more.pop("gold", None)
    return Task(id=id, prompt=prompt, candidates=candidates, overlap=overlap, gold=gold, **more)


class Page(HTMLParser):
    """Tags with their attributes, the forms' hidden fields by the form's action, and the texts of areas."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.forms: dict[str, dict[str, str]] = {}
        self.areas: dict[str, str] = {}
        self.texts: dict[str, str] = {}  # text by data-testid of the element around it
        self._form, self._area = "", ""
        self._open: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        if tag == "form":
            self._form = found.get("action", "")
            self.forms[self._form] = {}
        elif tag == "input" and found.get("type") == "hidden" and "disabled" not in found:
            self.forms[self._form][found["name"]] = found.get("value", "")
        elif tag == "textarea":
            self._area = found.get("name", "")
            self.areas[self._area] = ""
        if tag not in VOID:
            self._open.append((tag, found.get("data-testid", "")))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass
        if tag == "form":
            self._form = ""
        elif tag == "textarea":
            self._area = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            # a browser drops the line end behind the opening tag
            self.areas[self._area] += data.removeprefix("\n") if not self.areas[self._area] else data
        for _, name in self._open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data

    def has(self, testid: str) -> bool:
        """Whether an element is there."""
        return any(attributes.get("data-testid") == testid for _, attributes in self.tags)

    def checked(self) -> list[str]:
        """Values of the radio buttons that are set."""
        return [a["value"] for tag, a in self.tags if tag == "input" and a.get("type") == "radio" and "checked" in a]
