"""An annotator's hands on the page: one that only uses the keyboard, one that only uses the mouse."""

from playwright.sync_api import Locator, Page, expect

from alignkit.annotation import Form
from helpers.label_choices import Choice

COUNT_EVENTS = """
const count = (what) => (event) => {
  if (event.isTrusted) sessionStorage.setItem(what, Number(sessionStorage.getItem(what)) + 1);
};
for (const name of ["keydown", "keyup"]) window.addEventListener(name, count("keys"), true);
for (const name of ["pointerdown", "mousedown", "mousemove", "wheel", "touchstart"])
  window.addEventListener(name, count("mouse"), true);
"""


class Hands:
    """What is common: reading the page."""

    def __init__(self, page: Page, form: Form) -> None:
        self.page = page
        self.form = form

    @property
    def task(self) -> str:
        """The id of the task on the page."""
        return self.page.locator("#page").get_attribute("data-task") or ""

    def texts(self) -> list[str]:
        """The answers, in the order in which they are shown."""
        return [text.strip() for text in self.page.locator("section.candidate .scroll").all_inner_texts()]

    def letter(self, text: str) -> str:
        """The letter above an answer."""
        return "ABCDEFGHI"[self.texts().index(text)]

    def wait(self, where: str) -> None:
        """Until another page is there, its forms are htmx's, and the focus is on its heading."""
        expect(self.page.locator(f"#page{where}:not(.htmx-added, .htmx-settling) h1:focus")).to_be_visible(
            timeout=15_000
        )

    def leaving(self) -> str:
        """For `wait`: any page but this task's."""
        return f':not([data-task="{self.task}"])' if self.task else ':not([data-page="done"])'

    def by(self, testid: str) -> Locator:
        """An element."""
        return self.page.get_by_test_id(testid)


class Keyboard(Hands):
    """Tab, Enter and the page's own keys."""

    def press(self, *keys: str) -> None:
        """One after another."""
        for key in keys:
            self.page.keyboard.press(key)

    def tab_to(self, selector: str, key: str = "Tab") -> None:
        """Walk until the element has the focus."""
        for _ in range(100):
            if self.page.locator(f"{selector}:focus").count():
                return
            self.press(key)
        raise AssertionError(f"{key} does not lead to {selector}")

    def choose(self, choice: Choice) -> None:
        """Enter an answer, whatever was entered before."""
        if self.form == "ranking":
            self.press(*["Backspace"] * self.page.locator("#ranked li[data-letter]").count())
            for group in choice.groups:
                for place, text in enumerate(group):
                    self.press(str("ABCDEFGHI".index(self.letter(text)) + 1), *(["t"] if place else []))
        elif self.form == "pairwise":
            self.press("t" if len(choice.groups) == 1 else {"A": "1", "B": "2"}[self.letter(choice.groups[0][0])])
        elif self.form == "rating":
            self.press(str(choice.value % 10))
        elif self.form == "binary":
            self.press("1" if choice.good else "2")
        else:
            self._write(choice)

    def _write(self, choice: Choice) -> None:
        self.tab_to("#critique-text")
        self.press("Control+a")
        self.page.keyboard.type(choice.words)
        opened = self.page.locator("#revision-details[open]").count()
        if choice.revision is not None or opened:
            self.tab_to("#revision-details summary")
            if not opened:
                self.press("Enter")
                expect(self.by("revision")).to_be_enabled()
            self.press("Tab", "Control+a")
            if choice.revision is None:
                self.press("Delete")
            else:
                self.page.keyboard.type(choice.revision)

    def submit(self) -> None:
        """And wait for what comes."""
        leaving = self.leaving()
        self.press("Control+Enter" if self.form == "critique" else "Enter")
        self.wait(leaving)

    def skip(self) -> None:
        """This task is for others."""
        leaving = self.leaving()
        self.press("s")
        self.wait(leaving)

    def flag(self, reason: str) -> None:
        """Something is wrong with this task."""
        leaving = self.leaving()
        self.press("f")
        expect(self.by("reason")).to_be_focused()
        self.page.keyboard.type(reason)
        self.press("Control+Enter")
        self.wait(leaving)

    def undo(self) -> None:
        """Take the last answer back."""
        leaving = self.leaving()
        self.press("u")
        self.wait(leaving)

    def change(self, task: str) -> None:
        """Open an earlier answer from the history."""
        self.tab_to('[data-testid="nav-history"]', "Shift+Tab")
        self.press("Enter")
        self.wait('[data-page="history"]')
        self.tab_to(f'a[href$="id={task}"]')
        self.press("Enter")
        self.wait(f'[data-task="{task}"]')


class Mouse(Hands):
    """Clicks and drags. Words come as from a clipboard or a voice: without keys."""

    def choose(self, choice: Choice) -> None:
        """Enter an answer, whatever was entered before."""
        if self.form == "ranking":
            self._rank(choice)
        elif self.form == "pairwise":
            tie = len(choice.groups) == 1
            self.by("choice-tie" if tie else f"choice-{self.letter(choice.groups[0][0])}").click()
        elif self.form == "rating":
            self.by(f"value-{choice.value}").click()
        elif self.form == "binary":
            self.by("verdict-good" if choice.good else "verdict-bad").click()
        else:
            self._write(choice)

    def _rank(self, choice: Choice) -> None:
        """By turns: clicks in the order; drags from the tray; clicks in the wrong order, then steps and drags."""
        placed = self.page.locator("#ranked li[data-letter] .chip")
        while placed.count():
            placed.first.click()
        order = [self.letter(text) for group in choice.groups for text in group]
        manner = int(self.task[1:]) % 4
        if manner == 0:
            for letter in order:
                self.by(f"chip-{letter}").click()
        elif manner == 1:
            for letter in order:
                self.drag(letter, None)
        elif manner == 2:
            for letter in [order[1], order[0], *order[2:]]:
                self.by(f"chip-{letter}").click()
            self.by(f"up-{order[0]}").click()
        else:
            for letter in [*order[1:], order[0]]:
                self.by(f"chip-{letter}").click()
            self.drag(order[0], order[1])
        place = 0
        for group in choice.groups:
            for member in range(len(group)):
                if member:
                    self.by(f"sign-{place}").click()
                place += 1

    def drag(self, letter: str, before: str | None) -> None:
        """Onto the left half of another letter in the ranking, or behind all of them."""
        mouse, chip = self.page.mouse, self.by(f"chip-{letter}").bounding_box()
        goal = self.page.locator(f'#ranked li[data-letter="{before}"] .placed' if before else "#ranked").bounding_box()
        assert chip
        assert goal
        mouse.move(chip["x"] + chip["width"] / 2, chip["y"] + chip["height"] / 2)
        mouse.down()
        x = goal["x"] + (5 if before else goal["width"] - 4)
        mouse.move(x, goal["y"] + goal["height"] / 2, steps=5)
        mouse.up()

    def _write(self, choice: Choice) -> None:
        self._fill("critique-text", choice.words)
        opened = self.page.locator("#revision-details[open]").count()
        if choice.revision is not None and not opened:
            self.by("revision-open").click()
        if choice.revision is not None:
            self._fill("revision", choice.revision)
        elif opened:
            self.by("revision-open").click()

    def _fill(self, testid: str, text: str) -> None:
        self.by(testid).click(click_count=3)
        self.page.keyboard.insert_text(text)

    def _click(self, testid: str) -> None:
        leaving = self.leaving()
        self.by(testid).click()
        self.wait(leaving)

    def submit(self) -> None:
        """And wait for what comes."""
        self._click("submit")

    def skip(self) -> None:
        """This task is for others."""
        self._click("skip")

    def flag(self, reason: str) -> None:
        """Something is wrong with this task."""
        leaving = self.leaving()
        self.by("flag").click()
        self._fill("reason", reason)
        self.by("flag-submit").click()
        self.wait(leaving)

    def undo(self) -> None:
        """Take the last answer back."""
        self._click("undo")

    def change(self, task: str) -> None:
        """Open an earlier answer from the history."""
        self.by("nav-history").click()
        self.wait('[data-page="history"]')
        self.page.locator(f'a[href$="id={task}"]').click()
        self.wait(f'[data-task="{task}"]')
