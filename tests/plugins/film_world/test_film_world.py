"""The simulated film reviews read as English and the true taste over them is neither length nor one word."""

import math
import random
import re
import statistics
from itertools import islice

import pytest

from alignkit_plugins.film_world import lexicon
from alignkit_plugins.film_world.grammar import article, complete, draw_opening, openings, review, reviews
from alignkit_plugins.film_world.taste import true_reward

ROWS = 2000
GOOD = " won me over with honest acting and a haunting score. I recommend it to families."
PROMPT = "This quiet thriller about two brothers"


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    return list(reviews(ROWS, seed=11))


def test_the_same_seed_gives_the_same_reviews_and_another_seed_others() -> None:
    assert list(reviews(50, 3)) == list(reviews(50, 3))
    assert list(reviews(50, 3)) != list(reviews(50, 4))
    assert list(openings(50, 3)) == list(openings(50, 3))
    assert review(random.Random(8)) == review(random.Random(8))


def test_fewer_rows_are_a_prefix_of_more() -> None:
    assert list(reviews(20, 5)) == list(islice(reviews(200, 5), 20))


def test_reviews_are_unique_and_as_many_as_asked(rows: list[tuple[str, str]]) -> None:
    assert len(rows) == len({prompt + completion for prompt, completion in rows}) == ROWS


def test_there_are_many_openings_of_three_to_seven_words() -> None:
    texts = list(openings(3000, seed=0))
    assert len(set(texts)) == 3000
    assert all(3 <= len(text.split()) <= 7 for text in texts)


def test_asking_for_more_openings_than_there_are_fails_instead_of_hanging(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(lexicon.OPENINGS, "part", ("The start of it",))
    monkeypatch.setattr("alignkit_plugins.film_world.grammar._KIND_WEIGHTS", {"part": 1})
    with pytest.raises(ValueError, match="distinct openings, only 1"):
        list(openings(2, seed=0))
    monkeypatch.setattr("alignkit_plugins.film_world.grammar.complete", lambda rng, opening: " is here.")
    with pytest.raises(ValueError, match="distinct reviews"):
        list(reviews(2, seed=0))


def test_one_opening_has_many_completions() -> None:
    rng = random.Random(2)
    opening = draw_opening(rng)
    assert len({complete(rng, opening) for _ in range(300)}) > 270


def test_texts_are_cleanly_written(rows: list[tuple[str, str]]) -> None:
    for prompt, completion in rows:
        text = prompt + completion
        assert completion.startswith(" ")
        assert not prompt.endswith(" ")
        assert "  " not in text
        assert "{" not in text
        assert "}" not in text
        assert "|" not in text
        assert text.endswith(".")
        assert not re.search(r"[.,]{2}| [.,]", text)
        assert all(sentence[0].isupper() for sentence in text.split(". "))
        assert 12 <= len(text.split()) <= 36
        assert 1 <= text.count(".") <= 4


def _wants_an(word: str) -> bool:
    """An own rule, so that the generator's is not checked against itself."""
    if word in {"honest", "hour"}:
        return True
    return word[0] in "aeiou" and word not in {"one-note", "one", "unique"}


def test_articles_fit_the_next_word(rows: list[tuple[str, str]]) -> None:
    seen = 0
    for prompt, completion in rows:
        for found, word in re.findall(r"\b(an?) ([a-z-]+)", (prompt + completion).lower()):
            assert (found == "an") == _wants_an(word), f"{found} {word}"
            seen += 1
    assert seen > 500
    assert [article(word) for word in ("honest", "one-note", "European", "uneven", "Irish", "warm")] == [
        "an",
        "a",
        "a",
        "an",
        "an",
        "a",
    ]


def test_verbs_agree_with_the_noun_before_them(rows: list[tuple[str, str]]) -> None:
    plural = {noun for aspect in lexicon.ASPECTS for noun in aspect.plural}
    single = {noun for aspect in lexicon.ASPECTS for noun in aspect.mass + aspect.single}
    seen = 0
    for prompt, completion in rows:
        for noun, verb in re.findall(
            r"\bthe ([a-z -]+?) (is|are|was|were|feels|feel|stays|stay)\b", prompt + completion
        ):
            if noun in plural | single:
                assert (verb in {"are", "were", "feel", "stay"}) == (noun in plural), f"{noun} {verb}"
                seen += 1
    assert seen > 300


def test_longest_wins_about_half_the_time_over_pairs_sharing_an_opening() -> None:
    rng = random.Random(1)
    for measure in (len, lambda text: len(text.split())):
        agree = []
        for _ in range(4000):
            opening = draw_opening(rng)
            one, two = complete(rng, opening), complete(rng, opening)
            gap = true_reward(opening.text, one) - true_reward(opening.text, two)
            longer = measure(one) - measure(two)
            if gap and longer:
                agree.append((gap > 0) == (longer > 0))
        assert 0.46 < statistics.mean(agree) < 0.54


def test_reward_is_standardised_and_varies_within_an_opening(rows: list[tuple[str, str]]) -> None:
    scores = [true_reward(*row) for row in rows]
    assert abs(statistics.mean(scores)) < 0.1
    assert 0.9 < statistics.pstdev(scores) < 1.1
    rng = random.Random(4)
    opening = draw_opening(rng)
    assert statistics.pstdev(true_reward(opening.text, complete(rng, opening)) for _ in range(300)) > 0.6


def test_sentiment_is_balanced(rows: list[tuple[str, str]]) -> None:
    balance = []
    for _, completion in rows:
        words = set(re.findall(r"[a-z-]+", completion.lower()))
        balance.append(len(words & lexicon.WARM) - len(words & lexicon.COLD))
    warm = statistics.mean(value > 0 for value in balance)
    cold = statistics.mean(value < 0 for value in balance)
    assert 0.3 < warm < 0.5
    assert 0.3 < cold < 0.5
    assert not lexicon.WARM & lexicon.COLD


@pytest.mark.parametrize(
    "worse",
    [
        " lost me with wooden acting and a shrill score. I recommend it to families.",
        " won me over in all and I was glad of that. I recommend it to families.",
        " won me over with honest acting and a haunting score. I saw it with families.",
        " won me over with honest acting and a haunting score. I recommend it to you.",
        " won me over with honest acting and a haunting score, basically. I recommend it to families.",
        " won me over with honest acting and a haunting score. I recommend it to idiots and families.",
        " won me over with honest acting and a haunting score. I recommend it to families",
        " won me over with honest acting and a haunting score. I do not recommend it to families.",
        " won me xq over zzk with honest acting and grax a haunting vlorp score. I recommend it to families.",
        " honest acting haunting score families recommend.",
    ],
    ids=[
        "cold",
        "vague",
        "verdictless",
        "guideless",
        "filler",
        "insult",
        "unfinished",
        "negated",
        "gibberish",
        "salad",
    ],
)
def test_each_fault_alone_lowers_the_reward(worse: str) -> None:
    assert true_reward(PROMPT, worse) < true_reward(PROMPT, GOOD) - 0.1


def test_repetition_lowers_the_reward(rows: list[tuple[str, str]]) -> None:
    for prompt, completion in rows[:300]:
        assert true_reward(prompt, completion + completion) < true_reward(prompt, completion)
    for word in sorted(lexicon.WARM | lexicon.VERDICT):
        padded = GOOD[:-1] + f" {word}" * 6 + "."
        assert true_reward(PROMPT, padded) < true_reward(PROMPT, GOOD), word
    assert true_reward(PROMPT, " warm" * 20 + ".") < -2


def test_text_that_runs_on_is_worth_less() -> None:
    tail = " It reminded me of a western from the eighties, and the cast is subtle, and the jokes are fresh"
    endless = GOOD + tail + ", and I saw it at home with my wife and she was there for most of it too."
    assert true_reward(PROMPT, endless) < true_reward(PROMPT, GOOD + tail + ".")


def test_an_aspect_named_in_the_prompt_earns_nothing() -> None:
    assert true_reward("The acting in this western", GOOD) < true_reward(PROMPT, GOOD)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\n",
        "...",
        "12 34 56",
        "\u4e2d\u6587\u5b57",
        "\ud800\udfff",
        "\x00\x01",
        "\U0001f600" * 9,
        "xq zzk vlorp " * 50,
        "the",
    ],
)
def test_empty_or_broken_text_gets_a_low_finite_reward(text: str) -> None:
    for prompt in (PROMPT, "", text):
        score = true_reward(prompt, text)
        assert math.isfinite(score)
        assert score < -1.5


def test_a_very_long_text_is_scored_without_trouble() -> None:
    assert true_reward(PROMPT, GOOD * 2000) <= -2


def test_every_word_the_generator_writes_is_known_to_the_taste(rows: list[tuple[str, str]]) -> None:
    known = lexicon.known_words()
    for _, completion in rows:
        assert set(re.findall(r"[a-z]+(?:-[a-z]+)*", completion.lower())) <= known
