"""The reward of the GRPO comparison, a function that both sides are given."""

from collections.abc import Sequence


def share_of_e(prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
    """Share of a completion's characters that are an e."""
    return [text.count("e") / max(1, len(text)) for text in completions]
