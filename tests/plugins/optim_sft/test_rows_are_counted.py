"""Every demonstration is a row with something to learn, or is counted as dropped; a cut one is counted too."""

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from alignkit.protocols import Policy
from alignkit.records import Content, Demonstration
from alignkit_plugins.optim_sft.config import SFTConfig
from alignkit_plugins.optim_sft.stage import encode, pack


class Letters:
    """A token per character, and an end token."""

    def encode_prompt(self, prompt: Content) -> list[int]:
        return [1] * len(prompt)

    def encode_completion(self, prompt: Content, completion: Content) -> list[int]:
        return [2] * len(completion) + [0]


demonstrations = st.builds(
    Demonstration, prompt=st.text("ab", min_size=1, max_size=9), completion=st.text("ab", min_size=1, max_size=9)
)


@given(st.lists(demonstrations, max_size=20), st.integers(2, 20), st.sampled_from(["drop", "truncate"]))
def test_rows_and_dropped_ones_are_all(records: list[Demonstration], max_length: int, too_long: Any) -> None:
    config = SFTConfig(max_length=max_length, too_long=too_long)
    found = encode(cast("Policy", Letters()), records, config, "x.jsonl")
    assert len(found.rows) + found.dropped == len(records)
    assert all(any(row.target) and len(row.ids) <= max_length for row in found.rows)
    long = [r for r in records if len(r.prompt) + len(r.completion) + 1 > max_length]
    assert found.dropped + found.cut == len(long)
    if too_long == "truncate":
        assert found.dropped == sum(len(r.prompt) >= max_length for r in records)
    packed = pack(found.rows, max_length)
    assert sum(len(row.ids) for row in packed) == sum(len(row.ids) for row in found.rows)
    assert sum(sum(row.target) for row in packed) == sum(sum(row.target) for row in found.rows)
