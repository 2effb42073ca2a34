"""What a set of judgements consists of, and how far its annotators agree."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from alignkit.agreement import Share, agreement, current, gold_accuracy, length_preference, newest, position_preference
from alignkit.annotation.reading import Feedback
from alignkit.terminal import printable

INTERVALS = "Intervals treat cases as independent; those of one task or annotator are not, which makes them too narrow."


def statistics(feedback: Feedback) -> dict[str, Any]:
    """Plain data, for JSON and for the table."""
    tasks, judgements = feedback
    kept, counted = newest(judgements), current(judgements)
    answers: dict[str, set[str]] = defaultdict(set)
    for judgement in counted:
        answers[judgement.task_id].add(judgement.annotator.id)
    position, length = position_preference(judgements), length_preference(tasks, judgements)
    return {
        "tasks": len(tasks),
        "candidates": sum(len(task.candidates) for task in tasks),
        "judgements": len(kept),
        "superseded": len(judgements) - len(kept),
        "forms": _counted(j.payload.type for j in counted if j.payload is not None),
        "status": _counted(j.status for j in kept),
        "annotators": len({j.annotator.id for j in kept}),
        "kinds": _counted({j.annotator.id: j.annotator.kind for j in kept}.values()),
        "answers_per_task": _counted(str(len(answers[task.id])) for task in tasks),
        "agreement": {kind: found._asdict() for kind, found in agreement(tasks, judgements).items()},
        "gold_accuracy": {who: found._asdict() for who, found in gold_accuracy(tasks, judgements).items()},
        "position_preference": position._asdict() if position else None,
        "length_preference": length._asdict() if length else None,
    }


def print_statistics(figures: Mapping[str, Any], title: str) -> None:
    """A table for people, on stdout."""
    from rich.markup import escape

    table = Table(
        title=escape(title), caption=INTERVALS, show_header=False, title_justify="left", caption_justify="left"
    )
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in _lines(figures):
        table.add_row(escape(printable(name)), escape(printable(text)))
    Console().print(table)


def share_text(share: Mapping[str, Any] | Share | None) -> str:
    """`70.1 % (66.9 to 73.2 %, 799 cases)`."""
    if share is None:
        return "–"
    found = share._asdict() if isinstance(share, Share) else share
    low, high = found["low"] * 100, found["high"] * 100
    return f"{found['share'] * 100:.1f} % ({low:.1f} to {high:.1f} %, {found['n']:,} cases)"


def _lines(figures: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield "tasks", f"{figures['tasks']:,} with {figures['candidates']:,} candidates"
    replaced = f", {figures['superseded']:,} superseded" if figures["superseded"] else ""
    yield "judgements", f"{figures['judgements']:,}{replaced}"
    yield "answered, by form", _list(figures["forms"])
    yield "by status", _list(figures["status"])
    yield "annotators", f"{figures['annotators']:,} ({_list(figures['kinds'])})"
    yield "answers per task", ", ".join(f"{n}: {tasks:,} tasks" for n, tasks in figures["answers_per_task"].items())
    for kind, found in figures["agreement"].items():
        if found["comparisons"]:
            alpha = "undefined (all answers are the same)" if found["alpha"] is None else f"{found['alpha']:.3f}"
            yield (
                f"agreement: {kind}",
                (
                    f"{found['raw'] * 100:.1f} % of {found['comparisons']:,} pairs of annotators on "
                    f"{found['items']:,} items; Krippendorff's alpha {alpha}"
                ),
            )
        else:
            yield f"agreement: {kind}", "no item has two annotators"
    worst = sorted(figures["gold_accuracy"].items(), key=lambda entry: entry[1]["share"])
    for who, share in worst[:10]:
        yield f"known answers: {who}", share_text(share)
    if len(worst) > 10:
        yield "known answers", f"{len(worst) - 10} better annotators are not shown"
    yield "earlier shown preferred", share_text(figures["position_preference"])
    yield "longer preferred", share_text(figures["length_preference"])


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
