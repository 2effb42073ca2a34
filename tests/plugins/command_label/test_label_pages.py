"""Who gets in, what is told before, what goes around a task, and what hostile texts cannot do."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from alignkit.annotation import AnnotationStore, StoreFault
from alignkit.records import Instructions, Message, Pairwise
from alignkit_plugins.command_label.access import Keys
from alignkit_plugins.command_label.app import make_app
from alignkit_plugins.command_label.guard import LOOPBACK_NAMES, Names
from alignkit_plugins.command_label.text import MARKDOWN_CHARACTERS, show
from helpers.full_disks import Refusal, refusing
from helpers.label_pages import Page, label_task

pytestmark = pytest.mark.concurrent

Publish = Callable[..., Any]
HOME = "http://127.0.0.1:8765"


def browser(store: AnnotationStore, **more: Any) -> TestClient:
    return TestClient(make_app(store, **more), base_url=HOME)


class TestTheDoor:
    def test_without_an_invite_nothing_opens(self, store: AnnotationStore, publish: Publish) -> None:
        publish("pairwise")
        client = browser(store)
        for path in ("/task", "/history", "/guidelines", "/admin", "/invite/x", "/admin/x", "/task?id=pairwise-0"):
            assert client.get(path).status_code == 403, path
        for path in ("/task", "/undo", "/heartbeat", "/guidelines", "/admin/annotators", "/admin/annotator"):
            assert client.post(path, data={"csrf": "x"}).status_code == 403, path
        assert client.get("/nothing").status_code == 404

    def test_the_token_leaves_the_address(self, store: AnnotationStore, publish: Publish) -> None:
        publish("pairwise")
        token = Keys(store.annotators.secret()).invite_token(store.annotators.add("Eva").invite)
        answer = browser(store).get(f"/invite/{token}", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/task")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie

    def test_tokens_are_for_one_thing(self, store: AnnotationStore) -> None:
        keys, person = Keys(store.annotators.secret()), store.annotators.add("Eva")
        client = browser(store)
        assert client.get(f"/admin/{keys.invite_token(person.invite)}").status_code == 403
        assert client.get(f"/invite/{keys.admin_token()}").status_code == 403
        other = Keys("0" * 64)
        assert client.get(f"/invite/{other.invite_token(person.invite)}").status_code == 403

    def test_a_new_link_and_keeping_out_end_the_old_session(self, store: AnnotationStore, anna: Any, ben: Any) -> None:
        anna.get()
        store.annotators.renew("anna")
        anna.get(status=403)
        ben.get()
        store.annotators.set_active("ben", False)
        ben.get(status=403)
        store.annotators.set_active("ben", True)
        ben.get()

    def test_links_hold_after_a_restart(self, store: AnnotationStore, anna: Any) -> None:
        again = AnnotationStore(store.path, create=False)
        client = TestClient(make_app(again), base_url=HOME, cookies=anna.client.cookies)
        assert client.get("/task").status_code == 200

    def test_a_form_from_elsewhere_is_refused(
        self, store: AnnotationStore, publish: Publish, anna: Any, ben: Any
    ) -> None:
        publish("pairwise", 2)
        page = anna.get()
        for token in ("", "x", ben.get().forms["/task"]["csrf"]):
            anna.submit(page, 403, choice="A", csrf=token)
        fields = {**page.forms["/task"], "choice": "A"}
        foreign = anna.client.post("/task", data=fields, headers={"sec-fetch-site": "cross-site"})
        assert foreign.status_code == 403
        assert store.judgements() == []

    @pytest.mark.parametrize(
        ("host", "local", "network"),
        [
            ("127.0.0.1:8765", 200, 200),
            ("localhost", 200, 200),
            ("[::1]:8765", 200, 200),
            ("attacker.example", 421, 421),
            ("attacker.example:8765", 421, 421),
            ("127.0.0.1.attacker.example", 421, 421),
            ("192.168.1.7:8765", 421, 200),
            ("[fe80::1]:8765", 421, 200),
            ("box.local", 421, 200),
            ("", 421, 421),
        ],
    )
    def test_only_its_own_names(self, store: AnnotationStore, host: str, local: int, network: int) -> None:
        names = Names(frozenset(LOOPBACK_NAMES | {"box.local"}), addresses=True)
        for client, status in ((browser(store), local), (browser(store, names=names), network)):
            assert client.get("/health", headers={"host": host}).status_code == status

    def test_every_answer_has_the_headers(self, store: AnnotationStore, publish: Publish, anna: Any) -> None:
        publish("pairwise")
        for path in ("/task", "/history", "/nothing", "/static/style.css", "/static/htmx.min.js", "/admin"):
            headers = anna.client.get(path).headers
            policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == "'self'"
            assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == ("no-cache" if "static" in path else "no-store")

    def test_no_page_has_inline_script_or_style(self, publish: Publish, anna: Any) -> None:
        publish("ranking")
        for path in ("/task", "/history", "/guidelines"):
            for tag, attributes in anna.get(path).tags:
                assert tag != "style"
                assert tag != "script" or attributes["src"].startswith("/static/")
                assert not [name for name in attributes if name.startswith("on") or name == "style"]


class TestGuidelines:
    def test_are_read_once_per_version(self, store: AnnotationStore, publish: Publish, anna: Any) -> None:
        publish("pairwise", 2)
        store.instruct("r1-pairwise", Instructions(guidelines="# Be *fair*"))
        page = anna.get()
        assert page.has("acknowledge")
        assert ("em", {}) in page.tags
        page = anna.post("/guidelines", page.forms["/guidelines"])
        assert page.has("question")
        store.instruct("r1-pairwise", Instructions(guidelines="# Be *fair*", question="Well?"))
        assert anna.get().texts["question"] == "Well?"
        store.instruct("r1-pairwise", Instructions(guidelines="# Be *very* fair"))
        assert anna.get().has("acknowledge")
        assert anna.get("/guidelines").has("acknowledge")

    def test_those_that_were_replaced_cannot_be_acknowledged(
        self, store: AnnotationStore, publish: Publish, anna: Any
    ) -> None:
        publish("pairwise")
        store.instruct("r1-pairwise", Instructions(guidelines="old"))
        old = anna.get().forms["/guidelines"]
        store.instruct("r1-pairwise", Instructions(guidelines="new"))
        assert "new" in anna.client.post("/guidelines", data=old).text
        assert anna.get().has("acknowledge")
        assert not store.annotators.has_acknowledged("anna", old["version"])


class TestAroundATask:
    def test_progress(self, publish: Publish, anna: Any, ben: Any) -> None:
        publish("pairwise", 4, overlap=2)
        page = anna.get()
        assert "0 of 4 yours · 0 % of everybody’s" in page.texts["progress"]
        page = anna.submit(page, choice="A")
        assert "1 of 4 yours" in page.texts["progress"]

    def test_the_policy_is_not_named(self, publish: Publish, anna: Any) -> None:
        publish("ranking")
        assert "secret-policy" not in anna.client.get("/task").text

    def test_with_nothing_left_it_says_thank_you(self, publish: Publish, anna: Any) -> None:
        publish("binary")
        page = anna.submit(anna.get(), verdict="good")
        assert "answered 1 task." in page.texts["done"]
        assert page.has("undo")

    def test_scripts_get_the_next_task_with_the_answer(self, publish: Publish, anna: Any) -> None:
        publish("binary", 2)
        fields = {**anna.get().forms["/task"], "verdict": "good"}
        answer = anna.client.post("/task", data=fields, headers={"hx-request": "true"}, follow_redirects=False)
        assert answer.status_code == 200
        assert Page(answer.text).forms["/task"]["task_id"] == "binary-1"

    def test_heartbeat(self, store: AnnotationStore, publish: Publish, anna: Any, ben: Any) -> None:
        publish("binary")
        page = anna.get()
        beat = {"csrf": page.forms["/task"]["csrf"], "task_id": "binary-0"}
        anna.post("/heartbeat", beat, 204)
        store.release("anna", "binary-0")
        store.next_task("ben")
        anna.post("/heartbeat", beat, 409)

    def test_an_answer_that_comes_too_late_is_handed_back(
        self, store: AnnotationStore, publish: Publish, anna: Any, ben: Any
    ) -> None:
        publish("critique")
        page = anna.get()
        store.release("anna", "critique-0")
        ben.submit(ben.get(), text="mine")
        lost = anna.submit(page, 409, text="my words", revision="my version")
        assert "my words" in lost.texts["kept"]
        assert "my version" in lost.texts["kept"]
        assert len(store.judgements()) == 1
        anna.get("/task?id=critique-0", 409)

    def test_a_conversation_has_its_roles(self, store: AnnotationStore, anna: Any) -> None:
        turns = (Message(role="user", content="hi"), Message(role='x" onclick="y', content="<b>"))
        store.publish("one", "binary", [label_task("t", ["text"], prompt=turns)])
        page = anna.get()
        assert ("div", {"class": "turn user"}) in page.tags
        assert ("div", {"class": "turn other"}) in page.tags
        assert 'x" onclick="y' in page.texts["prompt"]

    def test_unknown_tasks(self, publish: Publish, anna: Any) -> None:
        publish("binary")
        anna.get("/task?id=nothing", 404)
        anna.submit(anna.get(), 404, verdict="good", task_id="nothing")


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src=http://evil.example></iframe>",
    "<style>*{display:none}</style>",
    "<!-- hidden --><b>x</b>",
    "![pixel](http://evil.example/p.png)",
    "![pixel][1]\n\n[1]: http://evil.example/p.png",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](java\tscript:alert(1))",
    "[click](&#106;avascript:alert(1))",
    "[click](vbscript:msgbox)",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "[click](data:image/png;base64,xx)",
    "[click](//evil.example)",
    "[click](/undo)",
    "[click](file:///etc/passwd)",
    "<javascript:alert(1)>",
    '[click](http://a.example "x\\" onmouseover=\\"alert(1)")',
    '```"><img src=x onerror=alert(1)>\ncode\n```',
    "|a|\n|-|\n|<img src=x onerror=alert(1)>|",
    "</pre></div></form><form action=http://evil.example><input name=csrf>",
    "</textarea><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b]0;title\x07\x08\x00",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_texts_are_shown_as_text(store: AnnotationStore, anna: Any, attack: str) -> None:
    store.publish("one", "critique", [label_task("t", ["harmless"], prompt="harmless")])
    store.publish("two", "critique", [label_task("u", [attack], prompt=(Message(role=attack, content=attack),))])
    store.instruct("two", Instructions(question=attack, guidelines=attack))
    tame = anna.get()
    anna.submit(tame, text=attack)
    pages = [anna.get("/guidelines?collection=two"), anna.get("/history")]
    anna.post("/guidelines", pages[0].forms["/guidelines"])
    html = anna.client.get("/task").text
    page = Page(html)
    for found in (*pages, page):
        for tag, attributes in found.tags:
            assert tag not in ("img", "iframe", "svg", "style", "object", "embed", "base")
            assert tag != "script" or attributes["src"].startswith("/static/")
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            if tag == "a" and not attributes["href"].startswith(("/", "#")):
                assert re.match(r"https?://|mailto:", attributes["href"])
                assert attributes["rel"] == "noopener noreferrer nofollow"
                assert attributes["target"] == "_blank"
            assert tag != "form" or attributes.get("action", "/").startswith("/")
    assert [a["href"] for t, a in page.tags if t == "a" and a["href"].startswith("/undo")] == []
    assert "49" not in page.texts["question"]
    # nothing disappears: the plain form holds every character, the invisible ones by name
    visible = re.sub(r"[\x00-\x08\x0b-\x1f]", lambda m: f"[U+{ord(m[0]):04X}]", attack)
    assert visible in page.texts["candidate-A"]
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", re.sub(r"<textarea.*?</textarea>", "", html, flags=re.S))


def test_reordering_characters_are_named() -> None:
    shown = show("a\u202egnp.exe\u2066x")
    for form in (shown.plain, shown.markdown):
        assert "[U+202E]gnp.exe[U+2066]x" in str(form)


@pytest.mark.parametrize("text", ["[a]: http://a.example", "<!-- b -->", "<b>c</b>", "![d](http://d.example/p.png)"])
def test_markdown_swallows_nothing(text: str) -> None:
    rendered = str(show(text).markdown)
    assert re.search("[abcd]", re.sub("<[^>]*>", "", rendered)), rendered


def test_a_very_long_text_is_there_to_its_end(store: AnnotationStore, anna: Any) -> None:
    long = "word " * 20_000 + "<b>end</b>"
    store.publish("one", "binary", [label_task("t", [long])])
    page = anna.get()
    assert long in page.texts["candidate-A"]


@pytest.mark.parametrize(
    "text", ["[" * MARKDOWN_CHARACTERS, "|" * MARKDOWN_CHARACTERS, "x" * (MARKDOWN_CHARACTERS + 1)]
)
def test_what_would_take_long_to_parse_is_shown_plainly(text: str) -> None:
    assert show(text).markdown is None
    assert show("fine").markdown is not None


class TestAdmin:
    @pytest.fixture
    def admin(self, store: AnnotationStore) -> TestClient:
        client = browser(store)
        client.get(f"/admin/{Keys(store.annotators.secret()).admin_token()}", follow_redirects=False)
        return client

    def test_figures(self, store: AnnotationStore, publish: Publish, anna: Any, ben: Any, admin: TestClient) -> None:
        tasks = publish("pairwise", 3, overlap=2)
        gold = label_task("gold", ["x", "y"], overlap=9, gold=Pairwise(a="gold-0", b="gold-1", p_a=1.0))
        store.publish("r1-pairwise", "pairwise", [gold])
        store.gold_every("r1-pairwise", 3)
        for person in (anna, ben):
            page, order, asked = person.get(), presented_letters(gold, person.id), []
            for _ in range(4):
                asked.append(page.forms["/task"]["task_id"])
                if asked[-1] == "gold":
                    page = person.submit(page, choice=order["gold-0" if person is anna else "gold-1"])
                elif asked[-1] == tasks[2].id:
                    page = person.submit(page, action="flag", reason="<b>odd</b>")
                else:
                    page = person.submit(page, choice="tie")
            assert sorted(asked) == sorted(["gold", *(task.id for task in tasks)])
        answer = admin.get("/admin")
        assert answer.status_code == 200
        page = Page(answer.text)
        table = " ".join(page.texts["collections"].split())
        assert "3 of 3" in table
        assert "6 of 6" in table
        people = " ".join(page.texts["people"].split())
        assert re.search(r"Anna 301 100 %", people), people
        assert re.search(r"Ben 301 0 %", people), people
        assert page.texts["flagged"].count("<b>odd</b>") == 2
        assert tasks[2].id in page.texts["flagged"]

    def test_inviting_and_keeping_out(self, store: AnnotationStore, admin: TestClient) -> None:
        page = Page(admin.get("/admin").text)
        csrf = page.forms["/admin/annotators"]["csrf"]
        page = Page(admin.post("/admin/annotators", data={"csrf": csrf, "name": "  Eva  Maria "}).text)
        link = next(a["value"] for t, a in page.tags if a.get("data-testid") == "link-eva-maria")
        assert browser(store).get(link).status_code == 200
        for name in ("", " ", "x" * 61, "a\x07b"):
            assert admin.post("/admin/annotators", data={"csrf": csrf, "name": name}).status_code == 422
        admin.post("/admin/annotator", data={"csrf": csrf, "annotator": "eva-maria", "action": "deactivate"})
        assert browser(store).get(link).status_code == 403
        admin.post("/admin/annotator", data={"csrf": csrf, "annotator": "eva-maria", "action": "activate"})
        assert browser(store).get(link).status_code == 200
        admin.post("/admin/annotator", data={"csrf": csrf, "annotator": "eva-maria", "action": "renew"})
        assert browser(store).get(link).status_code == 403
        for wrong in ({"annotator": "nobody", "action": "renew"}, {"annotator": "eva-maria", "action": "x"}):
            assert admin.post("/admin/annotator", data={"csrf": csrf, **wrong}).status_code in (400, 404)
        assert admin.post("/admin/annotators", data={"csrf": "x", "name": "Zoe"}).status_code == 403

    def test_an_annotator_is_no_admin(self, anna: Any) -> None:
        anna.get("/admin", 403)


def presented_letters(task: Any, who: str) -> dict[str, str]:
    from alignkit_plugins.command_label.presenting import presented

    return {candidate.id: "AB"[n] for n, candidate in enumerate(presented(task, who))}


def test_everything_the_page_needs_is_in_the_folder() -> None:
    import alignkit_plugins.command_label as package

    folder = Path(package.__file__).parent
    assert "Zero-Clause BSD" in (folder / "static/htmx.LICENSE.txt").read_text(encoding="utf-8")
    base = (folder / "templates/base.html.jinja").read_text(encoding="utf-8")
    needed = re.findall(r'(?:src|href)="/static/([^"]+)"', base)
    assert len(needed) >= 6
    for name in needed:
        assert (folder / "static" / name).is_file(), name


class TestAFullDisk:
    """The store refuses; what was acknowledged stays, and what was entered can be sent again."""

    @pytest.mark.parametrize("how", ["full", "read-only"])
    def test_an_answer_that_is_not_stored_is_said_and_given_back(
        self, store: AnnotationStore, publish: Publish, anna: Any, how: Refusal, caplog: pytest.LogCaptureFixture
    ) -> None:
        publish("critique", 3)
        anna.submit(anna.get(), text="the first one", revision="")
        page = anna.get()
        long = "words " * 10_000
        with refusing(store._database._engine, how):
            refused = anna.submit(page, 507, text=long, revision="better")
            assert refused.has("problem-page")
            assert "Nothing can be stored now" in refused.texts["problem-page"]
            assert refused.texts["kept"].strip() == f"{long}\n\nbetter"
            assert str(store.path) not in anna.client.post("/task", data=page.forms["/task"]).text
            assert str(store.path) in caplog.text  # for whoever runs the server
            if how == "read-only":  # a full disk may have room for a lease
                beat = {**page.forms["/task"], "task_id": "critique-1"}
                assert anna.client.post("/heartbeat", data=beat).status_code == 507
            assert [j.payload.text for j in store.judgements()] == ["the first one"]
        anna.submit(page, text=long, revision="better")
        assert [j.payload.text for j in store.judgements()] == ["the first one", long]
        anna.submit(page, text=long, revision="better")  # sent again, as it is by a page that heard nothing
        assert len(store.judgements()) == 2

    def test_a_store_that_others_hold_passes(
        self, store: AnnotationStore, publish: Publish, anna: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish("binary", 2)
        page = anna.get()

        def held(*_: Any, **__: Any) -> None:
            raise StoreFault("another process has held the database", where=store.path, hint="wait", waits=True)

        with monkeypatch.context() as patched:
            patched.setattr(store, "submit", held)
            assert anna.submit(page, 503, verdict="good").has("problem-page")
        anna.submit(page, verdict="good")
        assert len(store.judgements()) == 1
