"""People: questions go into the run's annotation store, answers come from there and from judgement files.

`alignkit label RUN` shows the questions in a web page. Judgement files count as well, so labels that were made
elsewhere can be brought in; a question that they answer is not published.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from alignkit.annotation import AnnotationStore
from alignkit.annotation.questions import Questions
from alignkit.annotation.reading import STORE
from alignkit.context import BuildContext, StepContext
from alignkit.data.store import RecordFile
from alignkit.errors import Paused, UserError
from alignkit.feedback import superseded_ids, taken_back
from alignkit.records import Instructions, Judgement, Task, content_id
from alignkit_plugins.reward_human.files import Unfinished, read_judgements

if TYPE_CHECKING:
    from alignkit_plugins.reward_human.config import HumanConfig

logger = logging.getLogger("alignkit")

POLL_SECONDS = 2.0
# Gold tasks are for everybody.
EVERYBODY = 1_000_000


class Place(NamedTuple):
    """Where people are asked: the store's file, and the name of the collection in it."""

    store: Path
    collection: str


class HumanSource:
    """Satisfies `Annotates` and `ReportsAnnotation`."""

    def __init__(
        self,
        config: "HumanConfig",
        place: Place,
        files: Path,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.config = config
        self.place = place
        self.files = files
        self._progress = progress
        self._figures: dict[str, Any] = {}
        self._unfinished = ""

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        """People's current judgements of these tasks, from store and files.

        Raises Paused while fewer than `min_share` of the questions have the answers they need (with `wait` it stays
        instead, also for the end of a file that somebody is still writing), UserError with file:line for a damaged
        judgement in a file.
        """
        questions = Questions(tasks, self.config.form, self.place.collection)
        known = {task.id: task for task in [*tasks, *questions.all]}
        while True:
            from_files = self._from_files(known)
            if not self.place.store.is_file():
                held = Answers.of(from_files)
                if not missing_answers(questions, held, ()):
                    self._figures = {"from_files": len(held.current)}
                    return iter(questions.back(held.current))
            with closing(AnnotationStore(self.place.store)) as store:
                people = {person.id for person in store.annotators.all() if person.active}
                said = store.judgements(self.place.collection, superseded=True)
                # together: an exported judgement may have been changed on the page since
                held = Answers.of([*from_files, *said])
                missing = missing_answers(questions, held, people)
                self._publish(store, questions, missing, Answers.of(said))
                answered = len(questions.all) - len(missing)
                needed = math.ceil(self.config.min_share * len(questions.all) - 1e-9)  # 0.1 * 30 are 3, not 4
                if answered >= needed:
                    return iter(questions.back(self._close(store, from_files)))
            self._progress(answered, needed)
            if not self.config.wait:
                self._pause(questions, answered, needed, len(people))
            time.sleep(POLL_SECONDS)

    def annotation_figures(self) -> Mapping[str, Any]:
        """Judgements from files, and the hash of the store's snapshot that was taken."""
        return self._figures

    def _from_files(self, known: Mapping[str, Task]) -> list[Judgement]:
        while True:
            try:
                return read_judgements(self.files, known, growing=self.config.wait)
            except Unfinished as unfinished:
                if str(unfinished) != self._unfinished:  # once, not every time it is looked at
                    logger.warning("%s is not complete yet; the run waits for the rest of the line", unfinished)
                self._unfinished = str(unfinished)
            time.sleep(POLL_SECONDS)

    def _publish(
        self, store: AnnotationStore, questions: Questions, missing: Mapping[str, int], in_store: "Answers"
    ) -> None:
        """Ask for what is missing, no more and no less.

        `in_store` is what `missing` was counted by: an answer that has come in since must not open a place. A step that
        is done again may ask about other completions: the questions about the old ones are withdrawn.
        """
        collection = self.place.collection
        gold = gold_tasks(self.config, collection)
        there = {task.id for task in store.tasks(collection)}
        new = [question for question in questions.all if question.id in missing and question.id not in there]
        more = [task for task in gold if task.id not in there]
        store.publish(collection, self.config.form, [*new, *more])
        if gold:  # more densely where there are too many for the pace that is asked for
            store.gold_every(collection, max(1, min(self.config.gold_every, len(questions.all) // len(gold))))
        answers = Counter(j.task_id for j in in_store.current if j.status in ("ok", "flagged"))
        places = {q.id: answers[q.id] + missing.get(q.id, 0) for q in questions.all}
        closed = store.ask(collection, {**places, **{task.id: EVERYBODY for task in gold}})
        withdrawn = closed - places.keys()
        if withdrawn:
            lost = sum(answers[id] for id in withdrawn)
            logger.warning("%s: %d earlier questions are withdrawn, with %d answers", collection, len(withdrawn), lost)
        store.instruct(collection, instructions(self.config))

    def _close(self, store: AnnotationStore, from_files: Sequence[Judgement]) -> list[Judgement]:
        """What is answered from now on would come too late, so nothing more is asked."""
        store.ask(self.place.collection, {})
        held = Answers.of([*from_files, *store.judgements(self.place.collection, superseded=True)])
        snapshot = store.snapshot(self.place.collection)
        ids = {judgement.id for judgement in from_files}
        from_files_alone = sum(judgement.id in ids for judgement in held.current)
        self._figures = {"from_files": from_files_alone, "store_snapshot": snapshot.hash}
        return held.current

    def _pause(self, questions: Questions, answered: int, needed: int, people: int) -> None:
        most = max(question.overlap for question in questions.all)
        more = f"; each needs {most} people, and {people} are invited" if people < most and most > 1 else ""
        raise Paused(
            f"{needed - answered} of {len(questions.all)} questions still need answers "
            f"({answered} have enough, {needed} are needed){more}",
            where=self.place.store,
            hint=f"let people answer in a web page: alignkit label {self.place.store.parent}\n"
            f"  -> or put JSONL files with judgements of tasks.jsonl into {self.files}",
        )


class Answers(NamedTuple):
    """Judgements that nothing supersedes, and the ids of those among them that only take an answer back."""

    current: list[Judgement]
    taken_back: set[str]

    @classmethod
    def of(cls, judgements: Iterable[Judgement]) -> "Answers":
        """`judgements` are all there are; of two with one id the later one counts."""
        by_id = {judgement.id: judgement for judgement in judgements}
        replaced = superseded_ids(by_id.values())
        return cls([j for id, j in by_id.items() if id not in replaced], taken_back(by_id.values()))


def missing_answers(questions: Questions, held: Answers, people: Collection[str]) -> dict[str, int]:
    """Question id -> answers that are missing, for those that have too few.

    Who flags a question has answered it. Who skips one leaves it to the others: once each of `people` has judged or
    skipped it, nobody is left to ask, and the run does not wait for it. Who takes an answer back has not answered; a
    failed judgement of a model is no answer.
    """
    answered: dict[str, set[str]] = {question.id: set() for question in questions.all}
    skipped: dict[str, set[str]] = {question.id: set() for question in questions.all}
    for judgement in held.current:
        if judgement.status in ("ok", "flagged"):
            seen = answered
        elif judgement.status == "skipped" and judgement.id not in held.taken_back:
            seen = skipped
        else:
            continue
        for id in questions.answered_by(judgement):
            seen[id].add(judgement.annotator.id)

    def nobody_left(id: str) -> bool:
        return bool(people and skipped[id]) and skipped[id] | answered[id] >= set(people)

    lacking = {q.id: q.overlap - len(answered[q.id]) for q in questions.all}
    return {id: count for id, count in lacking.items() if count > 0 and not nobody_left(id)}


def instructions(config: "HumanConfig") -> Instructions:
    """What people are told. Raises UserError for guidelines that cannot be read and an impossible scale."""
    guidelines = ""
    if config.guidelines is not None:
        try:
            guidelines = Path(config.guidelines).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the guidelines cannot be read: {error}", where=config.guidelines) from None
    low, high = config.scale
    try:
        return Instructions(question=config.question, guidelines=guidelines, rating_low=low, rating_high=high)
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, "), where="scale") from None


def gold_tasks(config: "HumanConfig", collection: str = "") -> list[Task]:
    """The tasks of the gold file. Raises UserError for one without its answer, or whose answer has another form."""
    if config.gold is None:
        return []
    path = Path(config.gold).expanduser()
    tasks = list(RecordFile(path, Task))
    for number, task in enumerate(tasks, 1):
        if task.gold is None or task.gold.type != config.form:
            found = "no gold answer" if task.gold is None else f"a {task.gold.type} as its answer"
            raise UserError(f"task {task.id!r} has {found}, but form is {config.form}", where=f"{path}:{number}")
    ids = [content_id("gold", collection, task.model_dump_json()) for task in tasks]
    return [task.model_copy(update={"id": id, "overlap": EVERYBODY}) for id, task in zip(ids, tasks, strict=True)]


def open_source(config: "HumanConfig", context: BuildContext) -> HumanSource:
    """The source for the step that builds it."""
    run = context.run.folder
    files = run / "judgements" if config.judgements is None else Path(config.judgements).expanduser()
    if not isinstance(context, StepContext):
        return HumanSource(config, Place(run / STORE, "judgements"), files)
    shown = False

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if not shown and config.wait:
            context.start_progress(total, "answer")
            shown = True
        if config.wait:
            context.log(done, {})

    return HumanSource(config, Place(run / STORE, f"r{context.round}-{context.step_id}"), files, progress)
