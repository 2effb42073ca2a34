"""The labelling page's looks and manners in a real browser: hostile texts, narrow windows, keys, focus, names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from alignkit.annotation import Form
from helpers.label_choices import decide
from helpers.label_hands import Hands, Keyboard
from helpers.label_pages import label_task
from helpers.label_server import CANDIDATES, FORMS, LabelServer, make_store, publish
from helpers.label_watch import Watch

pytestmark = [pytest.mark.slow, pytest.mark.concurrent]

OpenPage = Callable[..., Page]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
OUT = "http://192.0.2.7:81"
HOSTILE = [
    "<script>window.pwned=1; alert(1)</script>",
    f"<img src={OUT}/a.png onerror='window.pwned=1'><svg onload='window.pwned=1'><image href='{OUT}/b.svg'/></svg>",
    "[click](javascript:window.pwned=1) [data](data:text/html,<script>alert(1)</script>) <javascript:alert(1)>",
    f"![picture]({OUT}/c.png) ![two][ref]\n\n[ref]: {OUT}/d.png",
    f"<iframe src='{OUT}/e'></iframe><object data='{OUT}/f'></object><link rel=stylesheet href='{OUT}/g'>",
    f"<style>body {{ display: none; background: url({OUT}/h) }}</style><p style='position:fixed;inset:0'>over</p>",
    "<!-- a comment --> --> <![CDATA[ x ]]> </textarea></pre></div></form></body>",
    f"<form action='{OUT}/i'><input name=csrf><button formaction='{OUT}/j'>Submit</button></form>",
    f"<meta http-equiv=refresh content='0;url={OUT}/k'><base href='{OUT}/'>",
    "nul \0 bell \a escape \x1b[31m right-to-left \u202eevil\u202c zero \u200b mark \ufeff end",
    "{{ 7 * 7 }} {% include 'x' %} &lt;b&gt; &#x3c;script&#x3e;",
    "x" * 100_000,
]
FORBIDDEN = "script, img, svg, iframe, object, embed, link, style, form, input, button, meta, base, video, audio"
NAMED = {"\0": "[U+0000]", "\a": "[U+0007]", "\x1b": "[U+001B]", "\u202e": "[U+202E]", "\u202c": "[U+202C]",
         "\u200b": "[U+200B]", "\ufeff": "[U+FEFF]"}  # fmt: skip


def as_shown(text: str) -> str:
    """With the names of characters that one cannot see."""
    for character, name in NAMED.items():
        text = text.replace(character, name)
    return text


def check_inert(page: Page, watch: Watch, origin: str) -> None:
    """Nothing in the texts did anything."""
    assert page.evaluate("window.pwned") is None
    assert watch.strangers(origin) == []
    assert (watch.dialogs, watch.errors) == ([], [])
    for area in (".scroll", ".rows", "summary", ".rendered"):
        assert page.locator(area).locator(FORBIDDEN).count() == 0
    links = page.locator(".rendered a").evaluate_all("links => links.map(link => link.protocol)")
    assert set(links) <= {"http:", "https:", "mailto:"}


def test_hostile_texts_are_only_texts(tmp_path: Path, open_page: OpenPage, watch: Watch) -> None:
    """As completions, prompts, guidelines, critiques and flags' reasons, on every page that shows them."""
    tasks = [label_task(f"t{n}", [text], prompt=text) for n, text in enumerate(HOSTILE)]
    publish(tmp_path, "critique", tasks, guidelines="\n\n".join(HOSTILE[:-1]), question=HOSTILE[0])
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        page = open_page(server.links["anna"])
        check_inert(page, watch, server.origin)
        hands = Keyboard(page, "critique")
        hands.press("Enter")
        for number, text in enumerate(HOSTILE):
            hands.wait(f'[data-task="t{number}"]')
            for area in ("prompt", "candidate-A"):
                plain = hands.by(area).locator("pre.plain")
                assert plain.text_content() == as_shown(text)
                page.locator("#plain-text").set_checked(True)
                expect(plain).to_be_visible()
                page.locator("#plain-text").set_checked(False)
                if "<" in text:
                    opening = text[text.index("<") :].split("\n")[0].split(">")[0]
                    assert opening in hands.by(area).inner_text()
            check_inert(page, watch, server.origin)
            if number % 2:
                hands.by("flag").click()
                hands.by("reason").fill(text[:2000])
                hands.by("flag-submit").click()
            else:
                hands.by("critique-text").fill(text)
                hands.by("submit").click()
        hands.wait('[data-page="done"]')
        hands.by("nav-history").click()
        hands.wait('[data-page="history"]')
        assert HOSTILE[0] in hands.by("history").inner_text()
        check_inert(page, watch, server.origin)
        page.goto(server.links["admin"])
        for flagged in hands.by("flagged").all():
            flagged.locator("summary").click()
        assert HOSTILE[7] in page.locator("#flagged").inner_text()
        page.wait_for_timeout(500)
        check_inert(page, watch, server.origin)


def too_small(page: Page) -> list[str]:
    """Controls below 24 x 24 px; one inside of a label is as large as the label."""
    return page.evaluate(  # type: ignore[no-any-return]
        """() => [...document.querySelectorAll("a, button, input, select, textarea, summary")]
            .filter((e) => e.type !== "hidden" && e.checkVisibility({visibilityProperty: true}))
            .map((e) => [e, (e.closest("label") || e).getBoundingClientRect()])
            .filter(([e, box]) => box.width < 24 || box.height < 24)
            .filter(([e]) => getComputedStyle(e).display !== "inline" || !e.closest("p"))
            .map(([e, box]) => `${e.outerHTML.slice(0, 90)}: ${box.width} x ${box.height}`)"""
    )


def nameless(page: Page) -> list[str]:
    """Controls that a screen reader has no name for, from chromium's own accessibility tree."""
    session = page.context.new_cdp_session(page)
    nodes: list[dict[str, Any]] = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    roles = {"button", "link", "radio", "checkbox", "textbox", "combobox", "spinbutton", "progressbar", "dialog"}
    named = [n for n in nodes if not n.get("ignored") and n.get("role", {}).get("value") in roles]
    assert len(named) >= 3
    return [str(n) for n in named if not n.get("name", {}).get("value")]


def problems(page: Page, name: str) -> list[str]:
    """What does not hold, and should for every page at every width."""
    found = [f"{name}: too small: {control}" for control in too_small(page)]
    found += [f"{name}: without a name: {control}" for control in nameless(page)]
    width, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    return found if width <= room else [*found, f"{name}: {width} px wide in a window of {room}"]


@pytest.mark.parametrize("window", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("form", FORMS)
def test_pages_fit(form: Form, window: dict[str, int], tmp_path: Path, open_page: OpenPage) -> None:
    """Every page of every form: no scrolling sideways, nothing too small to hit, nothing without a name."""
    long = (
        "A_word_that_does_not_end" * 20
        + "\n\n| a | b |\n|---|---|\n| 1 | "
        + "wide " * 60
        + "|\n\n    code "
        + "x" * 300
    )
    tasks = [label_task("t0", [f"{long} {n}" for n in range(CANDIDATES[form])], prompt=long)]
    publish(tmp_path, form, tasks, guidelines=f"# Title\n\n{long}")
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        page = open_page(server.links["anna"], viewport=window)
        hands = Keyboard(page, form)
        found = problems(page, "guidelines")
        hands.press("Enter")
        hands.wait('[data-task="t0"]')
        found += problems(page, "task")
        hands.by("help-open").click()
        found += problems(page, "help")
        hands.by("help-close").click()
        hands.by("flag").click()
        found += problems(page, "flag")
        hands.by("flag-cancel").click()
        page.locator("#question").focus()
        if form == "ranking":
            hands.press("1", "2", "3", "4")
            found += problems(page, "ranked")
        _answer_somehow(hands)
        found += problems(page, "done")
        page.goto(f"{server.origin}/history")
        found += problems(page, "history")
        hands.by("change").click()
        hands.wait('[data-task="t0"]')
        found += problems(page, "change")
        page.goto(server.links["admin"])
        found += problems(page, "admin")
    assert found == []


def _answer_somehow(hands: Keyboard) -> None:
    if hands.form == "critique":
        hands.by("revision-open").click()
        hands.by("critique-text").fill("too long")
    elif hands.form != "ranking":
        hands.press({"pairwise": "t", "rating": "5", "binary": "1"}[hands.form])
    hands.submit()


STARTS = ["To the content", "nav-task", "nav-history", "nav-guidelines", "plain-text", "help-open", "prompt"]
CONTROLS = {
    "ranking": ["chip-A", "chip-B", "chip-C", "chip-D"],
    "pairwise": ["choice-A"],
    "rating": ["value-1"],
    "binary": ["verdict-good"],
    "critique": ["critique-text", "revision-open"],
}
FOCUSED = """() => {
  const e = document.activeElement, named = e.closest("[data-testid]");
  const shown = [e, e.nextElementSibling].some((s) => s && parseFloat(getComputedStyle(s).outlineWidth) >= 2
    && getComputedStyle(s).outlineStyle !== "none");
  const box = e.getBoundingClientRect(), dock = document.getElementById("dock");
  const top = dock.contains(e) ? innerHeight : dock.getBoundingClientRect().top;
  const seen = box.top < top && box.bottom > 0 && box.right > 0 && box.left < innerWidth;
  return { name: named && named.tagName !== "FORM" ? named.dataset.testid : e.textContent.trim(), shown, seen };
}"""


@pytest.mark.parametrize("form", FORMS)
def test_focus_goes_through_the_page_and_can_be_seen(form: Form, tmp_path: Path, open_page: OpenPage) -> None:
    """In reading order, with an outline, not behind the dock."""
    make_store(tmp_path, form, 1)
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        page = open_page(server.links["anna"], viewport=NARROW, reduced_motion="reduce")
        walked = []
        for _ in range(30):
            page.keyboard.press("Tab")
            focused = page.evaluate(FOCUSED)
            walked.append(focused["name"])
            assert focused["shown"], f"{focused['name']} has the focus, and nobody can see it"
            assert focused["seen"], f"{focused['name']} has the focus behind the dock or out of sight"
            if focused["name"] == "flag":
                break
    letters = [f"candidate-{letter}" for letter in "ABCD"[: CANDIDATES[form]]]
    assert walked == [*STARTS, *letters, *CONTROLS[form], "submit", "skip", "flag"]


def test_help_sheet_and_keys_that_are_off(tmp_path: Path, open_page: OpenPage) -> None:
    """`?` opens it and Esc closes it; keys do nothing under it, nor when they are switched off."""
    tasks = make_store(tmp_path, "binary", 3)
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        page = open_page(server.links["anna"])
        hands = Keyboard(page, "binary")
        hands.press("?")
        sheet = hands.by("help")
        expect(sheet).to_be_visible()
        assert "good, bad" in sheet.inner_text()
        expect(hands.by("help-close")).to_be_focused()
        hands.press("s", "1", "u")
        assert (hands.task, page.locator("#answer :checked").count()) == ("t0", 0)
        hands.press("Escape")
        expect(sheet).to_be_hidden()
        _switch_keys(hands)
        hands.press("1", "s", "f")
        assert (hands.task, page.locator("#answer :checked").count()) == ("t0", 0)
        page.reload()
        hands.press("1")
        assert page.locator("#answer :checked").count() == 0, "what was switched off came on again"
        _switch_keys(hands)
        hands.choose(decide("binary", tasks[0]))
        hands.submit()
        assert hands.task == "t1"


@pytest.mark.parametrize("dialog", [("help-open", "help-close"), ("flag", "flag-cancel")], ids=["help", "flag"])
def test_enter_submits_after_a_dialog_was_closed(dialog: tuple[str, str], tmp_path: Path, open_page: OpenPage) -> None:
    """It does not open the dialog once more."""
    tasks = make_store(tmp_path, "ranking", 2)
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        hands = Keyboard(open_page(server.links["anna"]), "ranking")
        for button in dialog:
            hands.by(button).click()
        hands.choose(decide("ranking", tasks[0]))
        hands.submit()
        assert hands.task == "t1"


def _switch_keys(hands: Hands) -> None:
    hands.by("help-open").click()
    hands.by("keys-on").click()
    hands.by("help-close").click()


def test_incomplete_answers_are_told_not_sent(tmp_path: Path, open_page: OpenPage) -> None:
    """The page says what is missing, and goes on when it is there."""
    tasks = make_store(tmp_path, "ranking", 2)
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        page = open_page(server.links["anna"])
        hands = Keyboard(page, "ranking")
        hands.press("2", "4", "Enter")
        expect(hands.by("problem")).to_have_text("Not ranked yet: A, C.")
        assert hands.task == "t0"
        hands.choose(decide("ranking", tasks[0]))
        expect(hands.by("problem")).to_be_hidden()
        hands.submit()
        assert hands.task == "t1"
