"""Two published data sets with a form of their own: OpenAI's summary comparisons and UltraFeedback."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from alignkit.components import Config
from alignkit.data.rows import BadRow, json_type
from alignkit.protocols import SourceRow
from alignkit.records import Critique, Judgement, Pairwise, Rating, Task
from alignkit_plugins.command_feedback.importing.items import Item, Maker, number, on_scale, row_object, text, value

# Scales of UltraFeedback (Cui et al. 2023): the overall score goes to 10, everything else to 5.
OVERALL, FINE_GRAINED = "overall_score", "fine-grained_score"


class SummarizeOptions(Config):
    """Options of `summarize`: comparisons of two summaries (Stiennon et al. 2020)."""


class UltraFeedbackOptions(Config):
    """Options of `ultrafeedback`: several answers to an instruction, each rated by a model."""

    rating: str = Field(OVERALL, description=f"{OVERALL}, {FINE_GRAINED}, or one aspect: helpfulness, honesty …")
    critiques: bool = Field(False, description="also take the critique of each answer")


class SummarizeForm:
    """A row is one worker's choice between two summaries."""

    def __init__(self, options: SummarizeOptions, maker: Maker) -> None:
        self._maker = maker

    def items(self, source: SourceRow) -> Iterator[Item]:
        """One task. In what order the worker saw the summaries is not known."""
        row = row_object(source)
        prompt = _post(value(row, "info"))
        summaries = value(row, "summaries")
        if not isinstance(summaries, list) or len(summaries) != 2 or not all(isinstance(s, dict) for s in summaries):
            raise BadRow("'summaries' is not a list of two objects", reason="wrong type")
        task = self._maker.task(prompt, self._maker.candidates(prompt, [text(s, "text") for s in summaries]))
        choice = value(row, "choice")
        if choice not in (0, 1) or isinstance(choice, bool):
            raise BadRow(f"'choice' is {choice!r}, not 0 or 1", reason="wrong choice")
        a, b = (candidate.id for candidate in task.candidates)
        extra = row.get("extra") if isinstance(row.get("extra"), dict) else {}
        assert isinstance(extra, dict)
        lost = Counter(
            confidences=int(extra.get("confidence") is not None),
            policies=sum(s.get("policy") is not None for s in summaries),
            notes=sum(bool(s.get("note")) for s in summaries),
        )
        worker = row.get("worker")
        payload = Pairwise(a=a, b=b, p_a=float(choice == 0))
        yield Item(task, [self._maker.judgement(task, payload, None if worker is None else str(worker))], lost)


class UltraFeedbackForm:
    """A row is one task of all answers, each with a rating of its own."""

    def __init__(self, options: UltraFeedbackOptions, maker: Maker) -> None:
        self._options = options
        self._maker = maker

    def items(self, source: SourceRow) -> Iterator[Item]:
        """One task."""
        row = row_object(source)
        prompt, answers = text(row, "instruction"), value(row, "completions")
        if not isinstance(answers, list) or not answers or not all(isinstance(a, dict) for a in answers):
            raise BadRow("'completions' is not a list of objects", reason="wrong type")
        task = self._maker.task(prompt, self._maker.candidates(prompt, [text(a, "response") for a in answers]))
        lost = Counter(models=sum(a.get("model") is not None for a in answers))
        judgements: list[Judgement] = []
        for number_, answer in enumerate(answers):
            judgements += self._of_answer(task, number_, answer, lost)
        yield Item(task, judgements, lost)

    def _of_answer(self, task: Task, index: int, answer: dict[str, Any], lost: Counter[str]) -> Iterator[Judgement]:
        candidate, wanted = task.candidates[index].id, self._options.rating
        found = answer.get(wanted) if wanted in (OVERALL, FINE_GRAINED) else self._aspect(answer)
        if found is None or str(found).strip().upper() in ("", "N/A"):
            lost["unrated answers"] += 1
        else:
            name, high = f"{wanted} of answer {index + 1}", 10.0 if wanted == OVERALL else 5.0
            rating = on_scale(number(found, name), 1.0, high, name)
            yield self._maker.judgement(task, Rating(candidate=candidate, value=rating, low=1.0, high=high))
        critique = answer.get("critique")
        if isinstance(critique, str) and critique.strip():
            if self._options.critiques:
                yield self._maker.judgement(task, Critique(candidate=candidate, text=critique))
            else:
                lost["critiques"] += 1

    def _aspect(self, answer: dict[str, Any]) -> Any:
        annotations = value(answer, "annotations")
        if not isinstance(annotations, dict):
            raise BadRow(f"'annotations' is {json_type(annotations)}, not an object", reason="wrong type")
        aspect = value(annotations, self._options.rating)
        return aspect.get("Rating") if isinstance(aspect, dict) else aspect


def _post(info: Any) -> str:
    """The text to summarize as the paper's models saw it."""
    if not isinstance(info, dict):
        raise BadRow(f"'info' is {json_type(info)}, not an object", reason="wrong type")
    if info.get("post") is None:
        return f"{text(info, 'article')}\n\nTL;DR:"
    head = [
        f"SUBREDDIT: r/{info['subreddit']}" if info.get("subreddit") else "",
        f"TITLE: {info['title']}" if info.get("title") else "",
    ]
    return "\n\n".join([*filter(None, head), f"POST: {text(info, 'post')}", "TL;DR:"])
