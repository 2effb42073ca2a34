"""Sentences whose order is plain, and what a judge makes of them."""

from itertools import pairwise

import pytest
import torch
from alignkit.batches import Rollout
from alignkit.records import Candidate, Prompt, Ranking, Sampling, Task

from alignkit_vader.vader import Vader

GOOD = "A wonderful film with great acting, I loved it."
FAIR = "The film is good."
PLAIN = "The film is two hours long."
BAD = "A terrible film, I hated every dull minute."
# From best to worst.
ORDER = (GOOD, FAIR, PLAIN, BAD)


def rollout(texts: tuple[str, ...]) -> Rollout:
    """Completions with these texts; the ids do not matter here."""
    return Rollout(
        prompts=tuple(Prompt(prompt="What a wonderful day.") for _ in texts),
        prompt_ids=tuple((1,) for _ in texts),
        completion_ids=tuple((2, 3) for _ in texts),
        texts=texts,
        finish=tuple("stop" for _ in texts),
        group_B=torch.zeros(len(texts), dtype=torch.long),
        temperature=1.0,
        tokenizer_id="",
    )


def task(texts: tuple[str, ...]) -> Task:
    """A task with one candidate per text, named by its place."""
    candidates = tuple(
        Candidate(
            id=str(i), prompt_id="p", prompt="", completion=text, policy_revision="", sampling=Sampling(), seed=0,
            prompt_ids=(1,), completion_ids=(2,), finish_reason="stop",
        )
        for i, text in enumerate(texts)
    )  # fmt: skip
    return Task(id="t", prompt="", candidates=candidates)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        *pairwise(ORDER),
        (FAIR, "The film is not good."),
        ("The film is GREAT.", "The film is great."),
        ("The film is very good.", "The film is good."),
    ],
)
def test_plain_orders(better: str, worse: str) -> None:
    high, low = Vader("positive").score(rollout((better, worse))).tolist()
    assert high > low
    low, high = Vader("negative").score(rollout((better, worse))).tolist()
    assert high > low


def test_scores_have_their_sign_and_range() -> None:
    scores_B = Vader("positive").score(rollout(ORDER))
    assert scores_B.dtype == torch.float32
    assert [s > 0 for s in scores_B.tolist()] == [True, True, False, False]
    assert scores_B[2] == 0
    assert scores_B.abs().max() <= 1
    assert torch.equal(Vader("negative").score(rollout(ORDER)), -scores_B)


def test_the_prompt_does_not_count() -> None:
    """Its prompt is glad, and the score of a text without any known word is still 0."""
    assert Vader("positive").score(rollout((PLAIN,))).item() == 0


def test_figures_count_neutral_texts() -> None:
    source = Vader("positive")
    source.score(rollout((*ORDER, "")))
    assert source.figures() == {"reward/vader_neutral": 2 / 5}


def test_ranks_with_ties() -> None:
    (judgement,) = Vader("positive").annotate([task((PLAIN, BAD, GOOD, "It runs."))])
    assert judgement.payload == Ranking(groups=(("2",), ("0", "3"), ("1",)))
    assert judgement.annotator.kind == "program"
    assert judgement.annotator.revision
    (other,) = Vader("negative").annotate([task((PLAIN, BAD, GOOD, "It runs."))])
    assert other.payload == Ranking(groups=(("1",), ("0", "3"), ("2",)))
