"""Agreement against published figures, hand counts and loops over pairs of annotators."""

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.agreement import (
    Share,
    agreement,
    gold_accuracy,
    length_preference,
    position_preference,
    share,
)
from alignkit.comparison import compare, swap_consistency
from alignkit.records import Binary, Evidence, Judgement, Pairwise, Ranking, Rating, Task
from helpers.feedback import make_task, prefers, ranks, said


def rated(task: str, value: float, who: str, low: float = 1, high: float = 5) -> Judgement:
    return said(task, Rating(candidate=f"{task}a", value=value, low=low, high=high), who)


class TestPublishedFigures:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011)."""

    def test_binary_two_observers(self) -> None:
        first, second = "0100000010", "1110010000"
        tasks = [make_task(f"t{n}", "x") for n in range(10)]
        judgements = [
            said(f"t{n}", Binary(candidate=f"t{n}a", good=answers[n] == "1"), who)
            for who, answers in (("A", first), ("B", second))
            for n in range(10)
        ]
        found = agreement(tasks, judgements)["binary"]
        assert found.alpha == pytest.approx(0.095, abs=5e-4)
        assert found.raw == 0.6
        assert (found.items, found.comparisons, found.annotators) == (10, 10, 2)

    def test_interval_four_observers_with_missing_answers(self) -> None:
        observers = {
            "A": "123321412...",
            "B": "1233224125.3",
            "C": ".3332342251.",
            "D": "12332441251.",
        }
        tasks = [make_task(f"t{n}", "x") for n in range(12)]
        judgements = [
            rated(f"t{n}", float(value), who)
            for who, values in observers.items()
            for n, value in enumerate(values)
            if value != "."
        ]
        found = agreement(tasks, judgements)["rating"]
        assert found.alpha == pytest.approx(0.849, abs=5e-4)
        assert found.items == 11  # one unit has a single answer


def loops_over_pairs(answers: list[list[float]]) -> tuple[float, float | None]:
    """Raw agreement, and nominal alpha from the definition: 1 - observed over expected disagreement."""
    shared = [item for item in answers if len(item) > 1]
    pairs = [(a, b) for item in shared for a, b in combinations(item, 2)]
    every = [value for item in shared for value in item]
    observed = sum(
        sum(a != b for i, a in enumerate(item) for j, b in enumerate(item) if i != j) / (len(item) - 1)
        for item in shared
    ) / len(every)
    expected = sum(a != b for i, a in enumerate(every) for j, b in enumerate(every) if i != j) / (
        len(every) * (len(every) - 1)
    )
    return sum(a == b for a, b in pairs) / len(pairs), 1 - observed / expected if expected else None


class TestAgreement:
    @given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=4), min_size=1, max_size=6))
    def test_preferences_are_three_categories(self, answers: list[list[float]]) -> None:
        tasks = [make_task(f"t{n}", "x", "y") for n in range(len(answers))]
        judgements = [prefers(f"t{n}", p, f"w{who}") for n, item in enumerate(answers) for who, p in enumerate(item)]
        if not judgements:
            assert agreement(tasks, judgements) == {}
            return
        found = agreement(tasks, judgements)["preference"]
        if not any(len(item) > 1 for item in answers):
            assert (found.raw, found.alpha, found.items, found.comparisons) == (None, None, 0, 0)
            return
        raw, alpha = loops_over_pairs(answers)
        assert found.raw == pytest.approx(raw)
        assert found.alpha == (None if alpha is None else pytest.approx(alpha))

    @given(st.integers(0, 10_000))
    def test_interval_alpha_is_the_librarys(self, seed: int) -> None:
        import krippendorff

        rng = random.Random(seed)
        table = [[rng.choice([np.nan, 1, 2.5, 3, 5]) for _ in range(8)] for _ in range(4)]
        shared = [[v for v in item if v == v] for item in zip(*table, strict=True)]
        values = {v for item in shared if len(item) > 1 for v in item}
        tasks = [make_task(f"t{n}", "x") for n in range(8)]
        judgements = [rated(f"t{n}", v, f"w{w}") for w, row in enumerate(table) for n, v in enumerate(row) if v == v]
        found = agreement(tasks, judgements).get("rating")
        if len(values) < 2:
            assert found is None or found.alpha is None
            return
        assert found is not None
        expected = krippendorff.alpha(reliability_data=table, level_of_measurement="interval")
        assert found.alpha == pytest.approx(expected)

    def test_a_ranking_counts_for_each_of_its_pairs(self) -> None:
        tasks = [make_task("t", "x", "y", "z")]
        # a>b, a>c, b=c against a>b, c>a, c>b: they agree on one pair of three
        found = agreement(tasks, [ranks("t", "a", "bc", who="A"), ranks("t", "c", "a", "b", who="B")])["preference"]
        assert (found.raw, found.items, found.comparisons) == (pytest.approx(1 / 3), 3, 3)

    def test_the_order_of_a_pairwise_judgement_does_not_matter(self) -> None:
        turned = said("t", Pairwise(a="tb", b="ta", p_a=0.1), "B")
        assert agreement([make_task("t", "x", "y")], [prefers("t", 0.9, "A"), turned])["preference"].raw == 1.0

    def test_superseded_and_failed_judgements_say_nothing(self) -> None:
        old = prefers("t", 1.0, "A")
        new = prefers("t", 0.0, "A", supersedes=old.id)
        judgements = [old, new, prefers("t", 0.0, "B"), said("t", None, "C", status="skipped")]
        found = agreement([make_task("t", "x", "y")], judgements)["preference"]
        assert (found.raw, found.comparisons, found.annotators) == (1.0, 1, 2)

    def test_an_undone_judgement_is_gone(self) -> None:
        first = prefers("t", 1.0, "A")
        undone = said("t", None, "A", status="skipped", supersedes=first.id)
        assert agreement([make_task("t", "x", "y")], [first, undone]) == {}

    def test_an_annotator_agrees_not_with_himself(self) -> None:
        found = agreement([make_task("t", "x", "y")], [prefers("t", 1.0), prefers("t", 1.0)])["preference"]
        assert (found.raw, found.comparisons) == (None, 0)

    def test_ratings_on_different_scales_meet(self) -> None:
        judgements = [rated("t", 3, "A", 1, 5), rated("t", 50, "B", 0, 100)]
        assert agreement([make_task("t", "x")], judgements)["rating"].raw == 1.0

    def test_unanimity_has_no_alpha(self) -> None:
        found = agreement([make_task("t", "x", "y")], [prefers("t", 1.0, "A"), prefers("t", 1.0, "B")])["preference"]
        assert (found.raw, found.alpha) == (1.0, None)


class TestGold:
    def test_preference(self) -> None:
        tasks = [make_task(f"t{n}", "x", "y", gold=Pairwise(a=f"t{n}a", b=f"t{n}b", p_a=1.0)) for n in range(2)]
        judgements = [prefers("t0", 0.8, "A"), prefers("t1", 0.0, "A"), prefers("t0", 0.5, "B"), prefers("t9", 1, "C")]
        found = gold_accuracy([*tasks, make_task("t2", "x", "y")], judgements)
        assert {who: (s.share, s.n) for who, s in found.items()} == {"A": (0.5, 2), "B": (0.0, 1)}

    def test_a_known_ranking_counts_by_pairs(self) -> None:
        tasks = [make_task("t", "x", "y", "z", gold=Ranking(groups=(("ta",), ("tb",), ("tc",))))]
        assert gold_accuracy(tasks, [ranks("t", "b", "a", "c")])["ann"][0::3] == (pytest.approx(2 / 3), 3)

    @pytest.mark.parametrize(("value", "right"), [(4, True), (4.4, True), (3, False), (5, False)])
    def test_a_rating_within_a_tenth_of_the_scale(self, value: float, right: bool) -> None:
        task = make_task("t", "x", gold=Rating(candidate="ta", value=4, low=1, high=5))
        assert gold_accuracy([task], [rated("t", value, "A")])["A"].share == right

    def test_thumbs(self) -> None:
        task = make_task("t", "x", gold=Binary(candidate="ta", good=True))
        judgements = [said("t", Binary(candidate="ta", good=good), who) for who, good in (("A", True), ("B", False))]
        assert {who: s.share for who, s in gold_accuracy([task], judgements).items()} == {"A": 1.0, "B": 0.0}


class TestPreferencesForPlaceAndLength:
    def test_place_of_the_preferred(self) -> None:
        judgements = [
            prefers("t", 1.0, presented_order=("ta", "tb")),  # the earlier
            prefers("t", 1.0, presented_order=("tb", "ta")),  # the later
            prefers("t", 0.2, presented_order=("tb", "ta")),  # the earlier
            prefers("t", 0.5, presented_order=("tb", "ta")),  # a tie says nothing
            prefers("t", 1.0),  # nobody knows the order
            ranks("t", "c", "a", presented_order=("ta", "tb", "tc")),  # the later
        ]
        found = position_preference(judgements)
        assert found is not None
        assert (found.share, found.n) == (0.5, 4)
        assert position_preference(judgements[3:5]) is None

    def test_who_saw_both_orders_says_nothing_about_place(self) -> None:
        both = Evidence(p_given=0.9, p_swapped=0.8)
        judgements = [prefers("t", 0.85, presented_order=("ta", "tb"), evidence=both)]
        assert position_preference(judgements) is None
        one = Evidence(p_given=0.9)
        judgements.append(prefers("t", 0.9, presented_order=("tb", "ta"), evidence=one))
        found = position_preference(judgements)
        assert found is not None
        assert (found.share, found.n) == (0.0, 1)

    def test_longer_text(self) -> None:
        tasks = [make_task("t", "long text", "short"), make_task("u", "same!", "equal")]
        judgements = [prefers("t", 1.0), prefers("t", 0.4, "B"), prefers("t", 0.9, "C"), prefers("u", 1.0)]
        judgements += [prefers("t", 0.5, "D"), prefers("v", 1.0)]
        found = length_preference(tasks, judgements)
        assert found is not None
        assert (found.share, found.n) == (pytest.approx(2 / 3), 3)


def test_interval_is_wilsons() -> None:
    # 8 of 10 by the formula with z = 1.959964
    z = 1.959964
    middle, half = (0.8 + z * z / 20) / (1 + z * z / 10), z * (0.16 / 10 + z * z / 400) ** 0.5 / (1 + z * z / 10)
    assert share(8, 10) == Share(0.8, pytest.approx(middle - half), pytest.approx(middle + half), 10)


def test_swap_consistency_counts_sides() -> None:
    orders = [(0.9, 0.6), (0.9, 0.4), (0.5, 0.5), (0.5, 0.6), (0.1, None)]
    judgements = [prefers("t", 0.6, evidence=Evidence(p_given=a, p_swapped=b)) for a, b in orders]
    found = swap_consistency(judgements)
    assert found is not None
    assert (found.share, found.n) == (0.5, 4)


class TestCompare:
    def people(self) -> tuple[list[Task], list[Judgement]]:
        tasks = [make_task(f"t{n}", "the longer one", "short") for n in range(5)]
        votes = {"t0": (1, 1, 0), "t1": (0, 0, 0), "t2": (1, 0), "t3": (0.5, 0.5, 1), "t4": (1,)}
        return tasks, [prefers(t, p, f"w{n}") for t, ps in votes.items() for n, p in enumerate(ps)]

    def test_figures_by_hand(self) -> None:
        tasks, people = self.people()
        judge = [prefers("t0", 0.9, "ai"), prefers("t1", 0.7, "ai"), prefers("t2", 0.8, "ai"), prefers("t3", 0.5, "ai")]
        judge.append(said("t4", None, "ai", status="parse_error"))
        found = compare(tasks, people, judge)
        assert (found.items, found.only_first, found.only_second) == (4, 1, 0)
        # decided by both: t0 (right) and t1 (wrong); t2 is a draw of people, t3 a tie of both
        assert found.accuracy is not None
        assert (found.accuracy.share, found.accuracy.n) == (0.5, 2)
        assert found.same is not None
        assert (found.same.share, found.same.n) == (0.5, 4)
        assert (found.ties_first, found.ties_second) == (2, 1)
        # po 2/4; chance: first 1/4*3/4, second 1/4*0, tie 2/4*1/4
        chance = 3 / 16 + 2 / 16
        assert found.kappa == pytest.approx((0.5 - chance) / (1 - chance))
        # two bins with one answer each: |0.9 - 1| and |0.7 - 0|
        assert found.ece == pytest.approx((0.1 + 0.7) / 2)
        assert found.failures == {"parse_error": 1}
        assert found.longest is not None
        assert (found.longest.share, found.longest.n) == (0.5, 2)
        assert [d.task_id for d in found.disagreements] == ["t1", "t2"]
        assert found.disagreements[0][3:] == (0.0, 0.7, 3, 1)

    def test_certain_answers_have_no_calibration(self) -> None:
        tasks, people = self.people()
        assert compare(tasks, people, [prefers("t0", 1.0, "ai")]).ece is None
        # two of three, and two orders that differ: shares of certain answers, not probabilities
        panel = [prefers("t0", p, f"ai{n}") for n, p in enumerate((1.0, 1.0, 0.0))]
        orders = prefers("t1", 0.75, "ai", evidence=Evidence(p_given=1.0, p_swapped=0.5))
        assert compare(tasks, people, [*panel, orders]).ece is None
        assert compare(tasks, people, [*panel, orders, prefers("t0", 0.9, "sure")]).ece is not None

    def test_failures_and_orders_of_other_tasks_are_not_counted(self) -> None:
        tasks, people = self.people()
        swapped = Evidence(p_given=0.9, p_swapped=0.2)
        judge = [prefers("t0", 0.9, "ai", evidence=Evidence(p_given=0.9, p_swapped=0.9))]
        judge += [prefers("else", 0.9, "ai", evidence=swapped), said("else", None, "ai", status="parse_error")]
        found = compare(tasks, people, judge)
        assert found.failures == {}
        assert found.swap_consistency is not None
        assert (found.swap_consistency.share, found.swap_consistency.n) == (1.0, 1)

    def test_a_set_against_itself(self) -> None:
        tasks, people = self.people()
        found = compare(tasks, people, people)
        assert found.accuracy is not None
        assert (found.accuracy.share, found.kappa, found.disagreements) == (1.0, 1.0, [])

    def test_nothing_in_common(self) -> None:
        tasks, people = self.people()
        found = compare(tasks, people, [])
        assert (found.items, found.accuracy, found.kappa, found.ece, found.longest) == (0, None, None, None, None)
        assert found.only_first == 5

    @given(st.integers(0, 1000))
    def test_calibration_error_against_a_loop(self, seed: int) -> None:
        rng = random.Random(seed)
        tasks = [make_task(f"t{n}", "x", "yy") for n in range(30)]
        people = [prefers(task.id, float(rng.random() < 0.6)) for task in tasks]
        ps = [rng.choice([0.05, 0.3, 0.55, 0.61, 0.69, 0.95]) for _ in tasks]
        found = compare(tasks, people, [prefers(t.id, p, "ai") for t, p in zip(tasks, ps, strict=True)])
        total = 0.0
        truth = [j.payload.p_a for j in people if isinstance(j.payload, Pairwise)]
        for low in [n / 10 for n in range(10)]:
            inside = [
                (max(p, 1 - p), (p > 0.5) == (t == 1.0))
                for p, t in zip(ps, truth, strict=True)
                if low <= max(p, 1 - p) < low + 0.1
            ]
            if inside:
                gap = sum(c for c, _ in inside) / len(inside) - sum(hit for _, hit in inside) / len(inside)
                total += abs(gap) * len(inside) / 30
        assert found.ece == pytest.approx(total)
