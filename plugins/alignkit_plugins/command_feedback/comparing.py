"""Two sets of judgements on the same items, side by side."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from alignkit.agreement import current, newest
from alignkit.annotation.reading import Feedback
from alignkit.comparison import Comparison, Disagreement, compare
from alignkit.errors import UserError, did_you_mean
from alignkit.files import atomic_write
from alignkit.records import Judgement, Task, plain_text
from alignkit.terminal import printable
from alignkit_plugins.command_feedback.stats import INTERVALS, share_text

HERE = Path(__file__).parent
SHARES = ("accuracy", "same", "length_first", "length_second", "longest", "swap_consistency")


class Side(NamedTuple):
    """A set of judgements with the name it has on the page."""

    name: str
    judgements: Sequence[Judgement]


class Case(NamedTuple):
    """A disagreement, ready to read."""

    task: str
    prompt: str
    a: str
    b: str
    first: str
    second: str
    prefer_a: list[str]
    prefer_b: list[str]


def common_tasks(first: Feedback, second: Feedback) -> list[Task]:
    """Tasks both sets know, as the first has them. Raises UserError if there is none, or if candidates differ."""
    others = {task.id: task for task in second.tasks}
    common = [task for task in first.tasks if task.id in others]
    if not common:
        raise UserError(
            "the two have no task in common: tasks are the same if their ids are",
            hint="import both with the same prompts and texts, or let the judge answer the tasks of the first",
        )
    for task in common:
        mine, theirs = ({c.id: c.completion for c in t.candidates} for t in (task, others[task.id]))
        if mine != theirs:
            raise UserError("the two have different candidates", where=f"task {task.id}")
    return common


def said_by(judgements: Sequence[Judgement], annotator: str | None, place: Path) -> Sequence[Judgement]:
    """Those not superseded, all of them or one annotator's. Raises UserError for one who is not there."""
    judgements = newest(judgements)
    if annotator is None:
        return judgements
    known = sorted({j.annotator.id for j in judgements})
    if annotator not in known:
        hint = f"annotators: {', '.join(known[:20])}{' …' if len(known) > 20 else ''}"
        raise UserError(f"no judgement of {annotator!r}{did_you_mean(annotator, known)}", where=place, hint=hint)
    return [j for j in judgements if j.annotator.id == annotator]


def independent(first: Side, second: Side) -> tuple[Side, int]:
    """`first` without annotators that `second` is made of and, if it has people, of people alone; and how many went.

    Raises UserError where nothing is left: a set held against itself agrees for no reason.
    """
    mine = current(first.judgements)
    theirs = {(j.annotator.id, j.annotator.kind) for j in second.judgements}
    has_people = any(j.annotator.kind == "human" for j in mine)
    kept = [
        j
        for j in mine
        if (j.annotator.id, j.annotator.kind) not in theirs and (j.annotator.kind == "human" or not has_people)
    ]
    if mine and not kept:
        raise UserError(
            f"{first.name} has no judgement to hold {second.name} against: {_who(mine)} judged there",
            hint="annotators with the same name and kind are the same; --annotator NAME takes one of the second, "
            "and `import --as NAME` tells two imports apart",
        )
    return Side(first.name, kept), len(mine) - len(kept)


def _who(judgements: Iterable[Judgement]) -> str:
    names = sorted({f"{j.annotator.id} ({j.annotator.kind})" for j in judgements})
    return f"only {', '.join(names[:10])}{' …' if len(names) > 10 else ''}"


def checked_comparison(tasks: Sequence[Task], first: Side, second: Side) -> Comparison:
    """`compare`, with a UserError where no pair of candidates was compared by both."""
    found = compare(tasks, first.judgements, second.judgements)
    if not found.items:
        failures = ", ".join(f"{status} {count}" for status, count in found.failures.items())
        raise UserError(
            f"no pair of candidates was compared by both ({found.only_first} only by {first.name}, "
            f"{found.only_second} only by {second.name}{'; without an answer: ' + failures if failures else ''})",
            hint="rankings, pairwise judgements and ratings of two candidates of one task compare candidates",
        )
    return found


def as_data(found: Comparison, first: Side, second: Side) -> dict[str, Any]:
    """Plain data for JSON."""
    data = found._asdict()
    for name in SHARES:
        data[name] = data[name]._asdict() if data[name] is not None else None
    disagreements = [disagreement._asdict() for disagreement in found.disagreements]
    return {"first": first.name, "second": second.name, **data, "disagreements": disagreements}


def print_comparison(found: Comparison, first: Side, second: Side) -> None:
    """A table for people, on stdout."""
    from rich.markup import escape

    title = printable(f"{second.name} held against {first.name}")
    table = Table(
        title=escape(title), caption=INTERVALS, show_header=False, title_justify="left", caption_justify="left"
    )
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text, _ in figures(found, first, second):
        table.add_row(escape(printable(name)), escape(printable(text)))
    Console().print(table)


def figures(found: Comparison, first: Side, second: Side) -> Iterable[tuple[str, str, str]]:
    """(name, value, what it means) of every figure."""
    one, two = first.name, second.name
    yield (
        "pairs judged by both",
        f"{found.items:,}",
        f"{found.only_first:,} only by {one}, {found.only_second:,} by {two}",
    )
    yield "accuracy", share_text(found.accuracy), f"where both prefer a side, {two} prefers the one that {one} does"
    yield "same answer", share_text(found.same), "a tie counted as an answer of its own"
    kappa = "–" if found.kappa is None else f"{found.kappa:.3f}"
    yield "Cohen's kappa", kappa, "the same, with agreement by chance taken off: 0 is chance, 1 is perfect"
    ece = "–" if found.ece is None else f"{found.ece:.3f}"
    yield "calibration error", ece, f"how far the probabilities of {two} are from how often it is right (ECE, ten bins)"
    yield "swap consistency", share_text(found.swap_consistency), "the same preference with the order turned round"
    yield f"longer preferred by {one}", share_text(found.length_first), "of every annotator's preferences"
    yield f"longer preferred by {two}", share_text(found.length_second), "of every annotator's preferences"
    yield "always the longer one", share_text(found.longest), "the accuracy of a judge who only looks at the length"
    yield "ties", f"{found.ties_first:,} of {one}, {found.ties_second:,} of {two}", "pairs without a preferred side"
    failed = ", ".join(f"{status} {count:,}" for status, count in sorted(found.failures.items())) or "none"
    yield f"no answer of {two}", failed, "never counted as a preference"


def write_page(path: Path, found: Comparison, tasks: Sequence[Task], first: Side, second: Side) -> None:
    """A page of its own: figures, and the strongest disagreements with their texts. Everything is escaped."""
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

    loader = ChoiceLoader([FileSystemLoader(HERE), PackageLoader("alignkit.report", "")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    by_id = {task.id: task for task in tasks}
    page = environment.get_template("compare.html.jinja").render(
        first=first.name,
        second=second.name,
        cards=[
            _card("Accuracy", found.accuracy),
            _card("Same answer", found.same),
            _card("Always the longer one", found.longest),
        ],
        rows=[*figures(found, first, second), ("intervals", "95 %", INTERVALS)],
        cases=[_case(by_id[d.task_id], d, first, second) for d in found.disagreements],
    )
    with atomic_write(path) as file:
        # Model output may hold halves of surrogate pairs, which no UTF-8 file can.
        file.write(page.encode("utf-8", "replace").decode("utf-8"))


def _card(title: str, share: Any) -> dict[str, Any]:
    if share is None:
        return {"title": title, "value": "–", "detail": "no case", "gauge": None}
    gauge = {"low": share.low * 100, "width": (share.high - share.low) * 100, "value": share.share * 100}
    detail = f"95 % interval {share.low * 100:.1f} to {share.high * 100:.1f} %, {share.n:,} cases"
    return {"title": title, "value": f"{share.share * 100:.1f} %", "detail": detail, "gauge": gauge}


def _case(task: Task, found: Disagreement, one: Side, two: Side) -> Case:
    texts = {c.id: c.completion.removeprefix(" ") for c in task.candidates}
    sides = [(one.name, found.p_first), (two.name, found.p_second)]
    return Case(
        task=task.id,
        prompt=plain_text(task.prompt),
        a=texts[found.a],
        b=texts[found.b],
        first=_verdict(found.p_first, found.votes_first),
        second=_verdict(found.p_second, found.votes_second),
        prefer_a=[name for name, p in sides if p > 0.5],
        prefer_b=[name for name, p in sides if p < 0.5],
    )


def _verdict(p: float, votes: int) -> str:
    side = "neither" if abs(p - 0.5) < 1e-9 else "A" if p > 0.5 else "B"
    return f"{side} (p of A {p:.2f}, {votes} {'vote' if votes == 1 else 'votes'})"
