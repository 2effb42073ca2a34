"""Judgements of every form become the pairs that one counts by hand."""

from collections import Counter
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import UserError
from alignkit.feedback import labelled_completions, preference_pairs
from alignkit.records import (
    Annotator,
    Binary,
    Candidate,
    Critique,
    Judgement,
    Message,
    Pairwise,
    Payload,
    PreferencePair,
    Prompt,
    Ranking,
    Rating,
    Sampling,
    Task,
)

_ids = count()


def task(letters: str = "abcd", id: str = "t", prompt: str | tuple[Message, ...] = "Q") -> Task:
    candidates = tuple(
        Candidate(
            id=letter, prompt_id=Prompt(prompt=prompt).id, prompt=prompt, completion=letter.upper(), seed=0,
            policy_revision="r", sampling=Sampling(), prompt_ids=(1,), completion_ids=(2,),
            finish_reason="stop",
        )
        for letter in letters
    )  # fmt: skip
    return Task(id=id, prompt=prompt, candidates=candidates)


def judge(payload: Payload | None, who: str = "ann", **more: object) -> Judgement:
    more = {"id": f"j{next(_ids)}", "task_id": "t", **more}
    annotator = Annotator(id=who, kind="human")
    return Judgement.model_validate({"annotator": annotator, "payload": payload, **more})


def seen(pairs: list[PreferencePair]) -> dict[str, float]:
    return {f"{p.chosen}>{p.rejected}": p.p for p in pairs}


def test_a_ranking_gives_all_cross_group_pairs_and_ties() -> None:
    pairs = preference_pairs([task()], [judge(Ranking(groups=(("c",), ("a", "b"), ("d",))))])
    assert seen(pairs) == {"C>A": 1, "C>B": 1, "C>D": 1, "A>D": 1, "B>D": 1, "A>B": 0.5}
    assert {p.group for p in pairs} == {"t"}
    assert sum(p.weight for p in pairs) == pytest.approx(1)
    without = preference_pairs([task()], [judge(Ranking(groups=(("a", "b"), ("d",))))], include_ties=False)
    assert seen(without) == {"A>D": 1, "B>D": 1}
    assert [p.weight for p in without] == [0.5, 0.5]


def test_annotators_are_averaged_and_the_pair_turned_to_the_majority() -> None:
    votes = [
        judge(Pairwise(a="a", b="b", p_a=1.0), "one"),
        judge(Pairwise(a="b", b="a", p_a=1.0), "two"),
        judge(Pairwise(a="b", b="a", p_a=0.75), "three"),
    ]
    assert seen(preference_pairs([task()], votes)) == {"B>A": pytest.approx(1 - (1 + 0 + 0.25) / 3)}
    assert seen(preference_pairs([task()], votes[:2])) == {"A>B": 0.5}
    assert preference_pairs([task()], votes[:2], include_ties=False) == []


def test_one_annotator_in_both_orders_counts_once() -> None:
    votes = [
        judge(Pairwise(a="a", b="b", p_a=1.0), "judge"),
        judge(Pairwise(a="b", b="a", p_a=0.0), "judge"),
        judge(Pairwise(a="b", b="a", p_a=1.0), "other"),
    ]
    assert seen(preference_pairs([task()], votes)) == {"A>B": 0.5}


def test_ratings_pair_within_one_annotator_from_the_threshold_on() -> None:
    ratings = [judge(Rating(candidate=c, value=v)) for c, v in zip("abc", (2, 5, 2.5), strict=True)]
    assert seen(preference_pairs([task()], ratings)) == {"B>A": 1, "B>C": 1}
    assert set(seen(preference_pairs([task()], ratings, rating_threshold=0.5))) == {"B>A", "B>C", "C>A"}
    assert set(seen(preference_pairs([task()], ratings, rating_threshold=2.5))) == {"B>A", "B>C"}
    apart = [judge(Rating(candidate="a", value=1), "one"), judge(Rating(candidate="b", value=7), "two")]
    assert preference_pairs([task()], apart) == []


def test_good_against_bad_within_the_task() -> None:
    votes = [judge(Binary(candidate=c, good=g), who) for c, g, who in
             (("a", True, "one"), ("b", False, "one"), ("c", True, "two"))]  # fmt: skip
    assert seen(preference_pairs([task()], votes)) == {"A>B": 1, "C>B": 1}


def test_labels_are_the_majority_of_annotators_and_weigh_its_lead() -> None:
    votes = [judge(Binary(candidate=c, good=g), who) for c, g, who in
             (("a", True, "one"), ("a", True, "two"), ("a", False, "three"), ("a", True, "one"),
              ("b", False, "one"), ("c", True, "one"), ("c", False, "two"))]  # fmt: skip
    left_out: Counter[str] = Counter()
    found = labelled_completions([task()], [*votes, judge(Pairwise(a="a", b="b", p_a=1.0))], left_out=left_out)
    (labels,) = found.values()
    assert [(x.completion, x.label, x.weight) for x in labels] == [("A", True, pytest.approx(1 / 3)), ("B", False, 1)]
    assert (list(found), left_out["divided"]) == (["t"], 1)
    assert labelled_completions([task()], [judge(Pairwise(a="a", b="b", p_a=1.0))]) == {}
    with pytest.raises(UserError, match="candidate 'z' is not in task 't'"):
        labelled_completions([task()], [judge(Binary(candidate="z", good=True))])


def test_a_revision_is_preferred_over_the_original() -> None:
    critiques = [
        judge(Critique(candidate="a", text="dull", revision="A!")),
        judge(Critique(candidate="b", text="fine")),
        judge(Critique(candidate="c", text="same", revision="C")),
        judge(Pairwise(a="a", b="b", p_a=1.0)),
    ]
    pairs = preference_pairs([task()], critiques)
    assert seen(pairs) == {"A>B": 1, "A!>A": 1}
    assert [p.weight for p in pairs] == [0.5, 0.5]


def test_failed_superseded_and_foreign_judgements_say_nothing() -> None:
    first = judge(Pairwise(a="a", b="b", p_a=1.0))
    second = judge(Pairwise(a="a", b="b", p_a=0.0), supersedes=first.id)
    failed = judge(None, "model", status="parse_error")
    foreign = judge(Pairwise(a="x", b="y", p_a=1.0), task_id="another")
    assert seen(preference_pairs([task()], [second, first, failed, foreign])) == {"B>A": 1}
    undone = judge(None, status="skipped", supersedes=second.id)
    assert preference_pairs([task()], [first, second, undone]) == []


def test_equal_texts_make_no_pair_and_unknown_candidates_are_an_error() -> None:
    twins = task("ab")
    twins = twins.model_copy(
        update={"candidates": tuple(c.model_copy(update={"completion": "same"}) for c in twins.candidates)}
    )
    assert preference_pairs([twins], [judge(Pairwise(a="a", b="b", p_a=1.0))]) == []
    with pytest.raises(UserError, match="candidate 'z' is not in task 't'"):
        preference_pairs([task()], [judge(Binary(candidate="z", good=True))])


def test_an_answer_in_a_conversation_is_a_message() -> None:
    chat = task(prompt=(Message(role="user", content="Q"),))
    (pair,) = preference_pairs([chat], [judge(Pairwise(a="a", b="b", p_a=1.0))])
    assert pair.chosen == (Message(role="assistant", content="A"),)


@given(rankings=st.lists(st.permutations("abcd"), min_size=1, max_size=5), cut=st.integers(1, 3))
def test_pairs_are_oriented_each_once_and_weigh_one_together(rankings: list[list[str]], cut: int) -> None:
    judgements = [
        judge(Ranking(groups=(tuple(order[:cut]), *((c,) for c in order[cut:]))), f"ann{n}")
        for n, order in enumerate(rankings)
    ]
    pairs = preference_pairs([task()], judgements)
    assert len({frozenset((p.chosen, p.rejected)) for p in pairs}) == len(pairs) == 6
    assert all(p.p >= 0.5 for p in pairs)
    assert sum(p.weight for p in pairs) == pytest.approx(1)
    backwards = preference_pairs([task()], judgements[::-1])
    assert seen(backwards) == {names: pytest.approx(p) for names, p in seen(pairs).items()}
