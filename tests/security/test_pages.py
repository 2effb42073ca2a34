"""Pages made of texts of models and strangers: the texts are shown, and are nothing but text."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from alignkit.annotation import AnnotationStore
from alignkit.report import write_report
from alignkit_plugins.command_label.access import Keys
from alignkit_plugins.command_label.app import make_app
from alignkit_plugins.command_label.text import show
from helpers.label_pages import label_task

ATTACKS = (
    "<script>mark()</script>",
    "</script><script>mark()</script>",
    "</style><script>mark()</script>",
    "</title><script>mark()</script>",
    '"><img src=x onerror=mark()>',
    "' onmouseover='mark()",
    "<svg onload=mark()><use href='data:image/svg+xml,x#x'/></svg>",
    "[x](javascript:mark())",
    "[x](data:text/html,<script>mark()</script>)",
    "<a href='java\tscript:mark()'>x</a>",
    "<iframe srcdoc='<script>mark()</script>'></iframe>",
    "<base href='//evil.example/'><form action='//evil.example/'><input name=csrf>",
    "<!--<script>mark()//-->",
    "{{ 7 * 7 }}${7 * 7}#{7 * 7}",
    "&lt;script&gt;mark()&lt;/script&gt;",
)
ACTIVE = {"script", "iframe", "object", "embed", "img", "image", "base", "form", "use", "foreignobject", "link", "meta"}


class Elements(HTMLParser):
    """Elements with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for each element."""
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Called for text."""
        self.text += data

    def active(self, allowed: frozenset[str] = frozenset()) -> list[object]:
        """Everything that could do something."""
        wrong: list[object] = [(tag, attrs) for tag, attrs in self.found if tag in ACTIVE - allowed]
        for tag, attrs in self.found:
            wrong += [(tag, name) for name in attrs if name.startswith("on") or name == "srcdoc"]
            links = [v or "" for k, v in attrs.items() if k in ("href", "src", "action", "xlink:href")]
            wrong += [
                (tag, v)
                for v in links
                if v.startswith("//") or (v and not v.startswith(("#", "/", "data:,", "http:", "https:", "mailto:")))
            ]
        return wrong


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_report(attack: str, tmp_path: Path) -> None:
    step = tmp_path / "run" / "r1" / "01-a"
    step.mkdir(parents=True)
    texts = dict.fromkeys(("prompt", "before", "after", "rationale", attack), attack)
    (step / "samples.jsonl").write_text(json.dumps({**texts, "before_score": 1, "after_score": 2}) + "\n")
    rows = [{"step": "a", "index": i, attack: i / 2} for i in range(4)]
    (step / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = {"status": "finished", "started": attack, "seconds": 1, "summary": {attack: {attack: attack}}}
    (step / "manifest.json").write_text(json.dumps(manifest))
    recipe = {"name": attack, "steps": [{"id": "a", "step": attack, "optimizer_stage": attack}]}
    plugins = {"plugins": [{"name": attack, "version": attack, "status": attack, "problem": attack}], "device": attack}
    summary = {"name": attack, attack: {attack: attack}, "simulation": attack}
    for name, data in {"recipe": recipe, "plugins": plugins, "summary": summary, "timing": {"steps": [attack]}}.items():
        (tmp_path / "run" / f"{name}.json").write_text(json.dumps(data))
    html = write_report(tmp_path / "run").read_text(encoding="utf-8")
    page = Elements(html)
    # its own: what forbids everything else, the empty icon, and the axes that matplotlib draws once and uses again
    own = [attrs for tag, attrs in page.found if tag == "use"]
    assert all((attrs.get("xlink:href") or attrs.get("href") or "").startswith("#") for attrs in own)
    assert page.active(allowed=frozenset({"meta", "link", "use"})) == []
    assert html.count("http-equiv") == 1
    assert "default-src 'none'" in html
    assert page.text.count(attack) >= 8, "shown as text"


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = AnnotationStore(tmp_path / "annotations.sqlite")
    yield opened
    opened.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_labelling_page(attack: str, store: AnnotationStore) -> None:
    """With the texts of a model, of the run's author and of another annotator."""
    from alignkit.records import Instructions

    task = label_task("t", [attack, f"{attack} "], prompt=attack)
    store.publish(attack, "pairwise", [task])
    store.instruct(attack, Instructions(question=attack, guidelines=attack))
    keys = Keys(store.annotators.secret())
    person = store.annotators.add("<b>anna</b>")
    client = TestClient(make_app(store), base_url="http://127.0.0.1:8765")
    client.get(f"/invite/{keys.invite_token(person.invite)}")
    client.get(f"/admin/{keys.admin_token()}")
    guidelines = client.get("/guidelines")
    version = Elements(guidelines.text)
    fields = {a["name"]: a.get("value") or "" for tag, a in version.found if tag == "input" and a.get("name")}
    client.post("/guidelines", data={k: v for k, v in fields.items() if k})
    task_page = client.get("/task")
    assert "candidate" in task_page.text
    for answer in (guidelines, task_page, client.get("/history"), client.get("/admin")):
        assert answer.status_code == 200
        page = Elements(answer.text)
        own = {
            (tag, attrs.get("src") or attrs.get("action") or attrs.get("href") or "")
            for tag, attrs in page.found
            if tag in ACTIVE
        }
        assert all(not where or where.startswith("/") for _, where in own), own
        assert page.active(allowed=frozenset({"script", "form", "link", "meta", "img"})) == []
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")


@pytest.mark.parametrize("attack", ATTACKS)
def test_markdown_makes_nothing_active(attack: str) -> None:
    shown = show(attack)
    for html in filter(None, (shown.plain, shown.markdown)):
        assert Elements(str(html)).active() == []


def test_reordering_characters_are_named() -> None:
    assert "[U+202E]" in show("a\u202egnp.exe").plain
