"""Small tasks and judgements, written by hand in tests."""

from itertools import count
from typing import Any

from alignkit.records import Annotator, Candidate, Content, Judgement, Pairwise, Payload, Ranking, Sampling, Task

_ids = count()


def make_task(id: str, *texts: str, prompt: Content = "Q", gold: Payload | None = None, overlap: int = 1) -> Task:
    """Candidates are called like the task with a letter behind: t1a, t1b …"""
    candidates = tuple(
        Candidate(
            id=f"{id}{letter}", prompt_id="p", prompt=prompt, completion=text, policy_revision="r", seed=0,
            sampling=Sampling(), prompt_ids=(), completion_ids=(), finish_reason="stop",
        )
        for letter, text in zip("abcdefgh", texts, strict=False)
    )  # fmt: skip
    return Task(id=id, prompt=prompt, candidates=candidates, gold=gold, overlap=overlap)


def said(task: str, payload: Payload | None, who: str = "ann", kind: Any = "human", **more: Any) -> Judgement:
    """A judgement with a fresh id."""
    more.setdefault("id", f"j{next(_ids)}")
    return Judgement(task_id=task, annotator=Annotator(id=who, kind=kind), payload=payload, **more)


def prefers(task: str, p_first: float, who: str = "ann", **more: Any) -> Judgement:
    """Pairwise on the task's first two candidates."""
    return said(task, Pairwise(a=f"{task}a", b=f"{task}b", p_a=p_first), who, **more)


def ranks(task: str, *groups: str, who: str = "ann", **more: Any) -> Judgement:
    """`ranks("t", "b", "ac")`: b best, a and c tied."""
    named = tuple(tuple(f"{task}{letter}" for letter in group) for group in groups)
    return said(task, Ranking(groups=named), who, **more)
