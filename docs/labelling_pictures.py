"""Makes the pictures in labelling.md: python docs/labelling_pictures.py [FOLDER]. Needs chromium, playwright, pillow.

The texts are invented. The answers on the admin page are simulated: each annotator has a taste, makes mistakes at a
rate of his own, and one of them likes long answers.
"""

import io
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from alignkit.annotation import AnnotationStore, Form, Person
from alignkit.records import (
    Annotator,
    Candidate,
    Evidence,
    Instructions,
    Judgement,
    Pairwise,
    Payload,
    Ranking,
    Sampling,
    Task,
)

PROMPT = "Why does bread rise?"
# From good to bad.
ANSWERS = [
    "Yeast eats the sugar in the dough and gives off **carbon dioxide**. The gluten holds the gas in bubbles, so the "
    "dough swells:\n\n1. while it rests, slowly;\n2. in the oven, quickly, until the crust is firm.",
    "Because of the yeast. It makes gas, and the gas is caught in the dough.",
    "Bread rises because it is baked, and baking makes things rise, as everybody who has baked bread knows, since it "
    "is in the oven that the bread which has been put there rises.",
    "Bread is an old food. People have eaten it for thousands of years.",
]
GUIDELINES = """# What we ask of you

Read the prompt first, then **all** answers. Judge them in this order:

1. *Is it right?* A wrong answer is worse than a short one.
2. *Does it answer what was asked?*
3. *Is it clear?* Length is no merit of its own.

| Situation | What to do |
|---|---|
| two answers are equally good | **tie** them |
| you cannot judge this subject | **skip** |
| a text is broken or should be seen by us | **flag**, with a few words |
"""
# name -> (how often he errs, whether he likes long answers)
PEOPLE = {"Anna": (0.08, False), "Ben": (0.15, False), "Cleo": (0.35, True)}


def candidate(task: str, number: int, completion: str) -> Candidate:
    """A completion as if it had been sampled."""
    return Candidate(
        id=f"{task}-{number}", prompt_id=task, prompt=PROMPT, completion=completion, policy_revision="invented",
        sampling=Sampling(), seed=0, prompt_ids=(), completion_ids=(), finish_reason="stop",
    )  # fmt: skip


def tasks_of(form: Form, count: int, overlap: int, gold: int = 0) -> list[Task]:
    """The last `gold` of them have a known answer."""
    size = {"ranking": 4, "pairwise": 2}.get(form, 1)
    found = []
    for number in range(count):
        id = f"{form}-{number}"
        best = [candidate(id, n, text) for n, text in enumerate(ANSWERS[:size])]
        candidates = tuple(random.Random(id).sample(best, size))
        known: Payload | None = None
        if number >= count - gold:
            known = best_first(form, [c.id for c in best])
        found.append(Task(id=id, prompt=PROMPT, candidates=candidates, overlap=1000 if known else overlap, gold=known))
    return found


def best_first(form: Form, ids: list[str]) -> Payload:
    """A ranking or a preference without ties."""
    if form == "ranking":
        return Ranking(groups=tuple((id,) for id in ids))
    first, second = sorted(ids)
    return Pairwise(a=first, b=second, p_a=float(ids[0] == first))


def simulate(store: AnnotationStore, form: Form) -> None:
    """Everybody answers in turn, until there is nothing left for anybody."""
    chance = random.Random(form)
    waiting = [store.annotators.add(f"{name} (simulated)") for name in PEOPLE]
    while waiting:
        person = chance.choice(waiting)
        found = store.next_task(person.id)
        if found is None:
            waiting.remove(person)
            continue
        store.submit(answer(person, found[0], form, chance), seconds=chance.lognormvariate(2.7, 0.4))


def answer(person: Person, task: Task, form: Form, chance: random.Random) -> Judgement:
    """What a taste, mistakes and a liking for length make of a task."""
    errs, likes_length = PEOPLE[person.name.split()[0]]
    long_first = likes_length and chance.random() < 0.4
    order = [c.id for c in sorted(task.candidates, key=lambda c: -len(c.completion) if long_first else c.id)]
    for place in range(len(order) - 1):
        if chance.random() < errs:
            order[place : place + 2] = reversed(order[place : place + 2])
    flagged = chance.random() < 0.02
    return Judgement(
        id=f"{person.id}-{task.id}",
        task_id=task.id,
        annotator=Annotator(id=person.id, kind="program"),
        presented_order=tuple(chance.sample(order, len(order))),
        status="flagged" if flagged else "ok",
        payload=None if flagged else best_first(form, order),
        evidence=Evidence(text="the second answer breaks off") if flagged else None,
    )


def make_store(path: Path) -> None:
    """Two collections with simulated answers, and one task of every other form."""
    store = AnnotationStore(path)
    for form, count, overlap, gold in (("ranking", 60, 2, 10), ("pairwise", 90, 2, 15)):
        tasks = tasks_of(form, count, overlap, gold)  # type: ignore[arg-type]
        store.publish(f"r1-{form}", form, tasks)  # type: ignore[arg-type]
        store.instruct(f"r1-{form}", Instructions(guidelines=GUIDELINES))
        simulate(store, form)  # type: ignore[arg-type]
    for form in ("rating", "binary", "critique"):
        store.publish(f"r2-{form}", form, tasks_of(form, 20, 1))  # type: ignore[arg-type]
        store.instruct(f"r2-{form}", Instructions(guidelines=GUIDELINES))
    for form in ("ranking", "pairwise"):
        tasks = [t.model_copy(update={"id": f"open-{t.id}"}) for t in tasks_of(form, 5, 1)]  # type: ignore[arg-type]
        store.publish(f"r2-{form}", form, tasks)  # type: ignore[arg-type]
        store.instruct(f"r2-{form}", Instructions(guidelines=GUIDELINES))
    store.close()


@contextmanager
def serving(path: Path) -> Iterator[dict[str, str]]:
    """`alignkit label` on a free port; yields the links by name."""
    command = [sys.executable, "-m", "alignkit.cli", "label", str(path), "--port", "0", "--annotator", "Dora"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = ""
        while "Ctrl+C" not in said:
            said += server.stdout.readline()
        yield dict(re.findall(r"^ +(\S+) +(http://\S+)$", said, re.MULTILINE))
        server.terminate()


def number_of(page: Page, answer: str) -> str:
    """The key of an answer, wherever it is shown."""
    shown = page.locator("section.candidate pre").all_text_contents()
    return str(shown.index(answer) + 1)


def take(page: Page, links: dict[str, str], folder: Path) -> None:
    """The pictures, in the order of the guide."""
    home = links["admin"].split("/admin")[0]

    def picture(name: str, **more: object) -> None:
        page.wait_for_timeout(300)
        shot = Image.open(io.BytesIO(page.screenshot(**more)))  # type: ignore[arg-type]
        shot.convert("RGB").quantize(64).save(folder / f"labelling_{name}.png", optimize=True)

    page.goto(links["Dora"])
    picture("guidelines")
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    page.goto(f"{home}/task?id=open-ranking-0")
    for key in [number_of(page, text) for text in ANSWERS]:
        page.keyboard.press(key)
    page.keyboard.press("t")
    picture("ranking")
    page.goto(f"{home}/task?id=open-pairwise-0")
    page.keyboard.press(number_of(page, ANSWERS[0]))
    picture("pairwise")
    page.goto(f"{home}/task?id=critique-0")
    page.get_by_test_id("critique-text").fill("Right and in order, but it does not say where the sugar comes from.")
    page.get_by_test_id("revision-open").click()
    picture("critique")
    page.set_viewport_size({"width": 1340, "height": 720})
    page.goto(links["admin"])
    picture("admin", full_page=True)


def main() -> None:
    """Write the PNG files beside this one, or into FOLDER."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        path = Path(scratch) / "annotations.sqlite"
        make_store(path)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with serving(path) as links:
            page = browser.new_page(viewport={"width": 1120, "height": 720})
            take(page, links, folder)
        browser.close()


if __name__ == "__main__":
    main()
