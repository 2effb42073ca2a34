"""Puts questions to a judge: from the cache where it can, and stops where too much fails."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignkit.context import BuildContext, StepContext
from alignkit.errors import Fault
from alignkit.files import digest
from alignkit.records import Annotator, Content, plain_text
from alignkit_plugins.reward_ai.answers import Answer, Judge, Question, Spent, bounded
from alignkit_plugins.reward_ai.cache import Cache
from alignkit_plugins.reward_ai.config import AIConfig
from alignkit_plugins.reward_ai.templates import Constitution, QuestionTemplate

FAILURES = ("parse_error", "refusal", "api_error", "skipped")


class Replies(NamedTuple):
    """Answers by key, and how many of them were asked for now."""

    by_key: Mapping[str, Answer]
    asked: int
    spent: Spent


class Asker:
    """A judge with its template, constitution and cache."""

    def __init__(
        self,
        config: AIConfig,
        context: BuildContext,
        judge: Judge,
        template: QuestionTemplate,
        constitution: Constitution | None,
        cache: Cache | None,
    ) -> None:
        self.config = config
        self.context = context
        self.judge = judge
        self.template = template
        self.constitution = constitution
        self.cache = cache
        self.spent = Spent()
        self._waiting: list[tuple[str, Answer]] = []
        self._unbooked = Spent()
        self._written = 0.0
        name = config.annotator or _short_name(config.model)
        self.annotator = Annotator(id=f"ai-{name}", kind="model", revision=judge.revision)
        # Of everything but the texts: with a judgement's task and candidates it names the judgement.
        self.identity = digest(
            [
                judge.identity,
                config.form,
                list(judge.labels),
                list(config.scale) if config.form == "rating" else [],
                template.revision,
                constitution.revision if constitution else "",
            ]
        )[:16]

    def principle(self, *what: str) -> str:
        """The one to apply to what these ids name; empty without a constitution."""
        return self.constitution.draw(*what) if self.constitution else ""

    def question(self, prompt: Content, principle: str, **texts: Any) -> Question:
        """The question about these texts, with its key in the cache."""
        shown = {"principle": principle} if self.constitution else {}
        text = self.template.render(prompt=plain_text(prompt), verdict=self.judge.verdict, **shown, **texts)
        parts = [
            self.judge.identity,
            list(self.judge.labels),
            self.config.form,
            self.template.revision,
            principle,
            text,
        ]
        return Question(digest(parts), text)

    def ask(self, questions: Sequence[Question], use_cache: bool = True, progress: bool = False) -> Replies:
        """The answer to each question; equal questions are asked once.

        Raises Fault as soon as more than `max_failures` are certain to fail, and what the judge raises.
        """
        asked = list({q.key: q for q in questions}.values())
        cache = self.cache if use_cache else None
        if self._waiting:  # a full disk refused them
            self._book(cache)
        found = cache.find(q.key for q in asked) if cache else {}
        fresh = [q for q in asked if q.key not in found]
        counts: Counter[str] = Counter(answer.status for answer in found.values())
        before = self.spent
        step = self.context if progress and isinstance(self.context, StepContext) else None

        def keep(question: Question, answer: Answer) -> None:
            found[question.key] = answer
            self._waiting.append((question.key, answer))
            # What was paid for is written at once; what a local judge says, once a second.
            if self.config.judge == "openai" or time.monotonic() > self._written + 1:
                self._book(cache)
            counts[answer.status] += 1
            if step is not None:
                step.log(len(found), {})
            if answer.status != "ok":
                self.check_failures(counts, len(asked), answer.text)

        if step is not None and fresh:
            step.start_progress(len(asked), "question")
        try:
            self.judge.ask(fresh, keep)
        finally:
            self._book(cache)
        return Replies(found, len(fresh), Spent(*(a - b for a, b in zip(self.spent, before, strict=True))))

    def _book(self, cache: Cache | None) -> None:
        """Write what came since the last call, and what was spent, on failed requests too.

        What cannot be written is tried again by the next call.
        """
        cost = self.judge.new_costs()
        self.spent = self.spent.plus(cost)
        self._unbooked = self._unbooked.plus(cost)
        if cache is not None and (self._waiting or any(self._unbooked)):
            cache.keep(self.judge.revision, self._waiting, self._unbooked)
        self._waiting, self._unbooked = [], Spent()
        self._written = time.monotonic()

    def check_failures(self, counts: Mapping[str, int], total: int, example: str = "") -> None:
        """Raise Fault if more than `max_failures` of `total` failed."""
        failures = {status: counts[status] for status in FAILURES if counts.get(status)}
        failed = sum(failures.values())
        # The small number keeps 0.1 * 30 from being less than 3.
        if failed > self.config.max_failures * total + 1e-9:
            named = ", ".join(f"{status} {n}" for status, n in failures.items())
            last = f"; the last: {bounded(example, 300)!r}" if example else ""
            raise Fault(
                f"the judge fails too often: {failed} of {total} answers ({named}), "
                f"and max_failures is {self.config.max_failures:g}{last}",
                where=self.annotator.id,
                hint="look at the template and the judge; a higher max_failures goes on without the failed ones",
            )


def _short_name(model: str) -> str:
    """`@judge` -> judge, `folder/tiny` -> tiny, `…/05-judge/model` -> 05-judge; nothing that ids may not have."""
    parts = [part for part in model.lstrip("@").replace("\\", "/").split("/") if part]
    last = parts[-2] if len(parts) > 1 and parts[-1] == "model" else "".join(parts[-1:])
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in last) or "judge"
