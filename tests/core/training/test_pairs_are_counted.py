"""Every pair that a stage is given is trained on or counted as dropped."""

from hypothesis import given
from hypothesis import strategies as st

from alignkit.batches import Row
from alignkit.records import Content, PreferencePair
from alignkit.training.pairs import make_groups


def encode(prompt: Content, completion: Content) -> Row:
    """A token per character, and an end token."""
    return Row([1] * (len(prompt) + len(completion) + 1), [False] * len(prompt) + [True] * (len(completion) + 1))


texts = st.text("ab", max_size=9)
pairs = st.builds(
    PreferencePair,
    prompt=st.sampled_from(["", "p", "question"]),
    chosen=texts,
    rejected=texts,
    group=st.sampled_from("xyz "),
)


@given(st.lists(pairs, max_size=20), st.integers(1, 20))
def test_kept_and_dropped_pairs_are_all(given_pairs: list[PreferencePair], max_length: int) -> None:
    found = make_groups(given_pairs, encode, max_length, "drop", "x.jsonl")
    longest = [max(len(encode(p.prompt, side).ids) for side in (p.chosen, p.rejected)) for p in given_pairs]
    assert found.dropped == sum(length > max_length for length in longest)
    assert found.pairs == [p for p, length in zip(given_pairs, longest, strict=True) if length <= max_length]
    assert sum(len(group.pairs) for group in found.groups) == len(found.pairs)
    for group in found.groups:
        used = {i for chosen, rejected, *_ in group.pairs for i in (chosen, rejected)}
        assert used == set(range(len(group.rows)))
        assert all(any(row.target) for row in group.rows)
