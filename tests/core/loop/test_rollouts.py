"""What a sampler may return, and what is a Fault with its name and the prompt."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from alignkit.batches import Rollout
from alignkit.errors import Fault, UserError
from alignkit.loop.rollouts import checked_rollout, select_rows, shortened
from alignkit.records import Prompt, Sampling
from alignkit_plugins.reward_length.source import Length
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.models import make_policy

PROMPTS = [Prompt(prompt=t) for t in ("the film", "a", "I recommend it")]
TOP_K = Sampling(max_length=6, top_k=5)


@pytest.fixture(scope="module")
def policy() -> Any:
    return make_policy("llama", seed=0)


@pytest.fixture(scope="module")
def good(policy: Any) -> Rollout:
    return HFSampler(4).rollout(policy, PROMPTS, TOP_K, 1)


class Returns:
    """A sampler that returns what it was made with."""

    def __init__(self, rollout: Any) -> None:
        self.found = rollout

    def rollout(self, *arguments: object) -> Any:
        """What it was made with."""
        return self.found


def spoiled(good: Rollout, case: str) -> Any:
    """A rollout with one mistake, in row 1 where it is in a row."""
    ids, logp_BT = good.completion_ids, good.sampler_logp_BT
    assert logp_BT is not None
    assert good.kept_BTK is not None
    bad_logp_BT = logp_BT.clone()
    bad_logp_BT[1, 0] = {"nan": float("nan"), "inf": float("-inf")}.get(case, 0.0)
    return {
        "none": None,
        "a list": [1, 2],
        "nothing": replace(good, prompts=()),
        "fewer": select_rows(good, [0, 1]),
        "fewer texts": replace(good, texts=good.texts[:2]),
        "empty": replace(good, completion_ids=(ids[0], (), ids[2])),
        "too large": replace(good, completion_ids=(ids[0], (*ids[1][:-1], 10**6), ids[2])),
        "negative": replace(good, completion_ids=(ids[0], (-1, *ids[1][1:]), ids[2])),
        "prompt id": replace(good, prompt_ids=(good.prompt_ids[0], (10**6,), good.prompt_ids[2])),
        "no prompt": replace(good, prompt_ids=(good.prompt_ids[0], (), good.prompt_ids[2])),
        "other prompt": replace(good, prompts=(PROMPTS[0], PROMPTS[2], PROMPTS[1])),
        "finish": replace(good, finish=("stop", "eos", "stop")),
        "logp shape": replace(good, sampler_logp_BT=logp_BT[:, :-1]),
        "nan": replace(good, sampler_logp_BT=bad_logp_BT),
        "inf": replace(good, sampler_logp_BT=bad_logp_BT),
        "kept shape": replace(good, kept_BTK=good.kept_BTK[:2]),
    }[case]


CASES = {
    "none": "returned NoneType, not a Rollout",
    "a list": "returned list, not a Rollout",
    "nothing": "returned nothing for 3 prompts",
    "fewer": "returned 2 completions for 3 prompts",
    "fewer texts": "returned 2 texts for 3 prompts",
    "empty": "returned an empty completion .* for prompt 1 of 3, 'a'",
    "too large": "returned a completion with token id 1000000, outside .* for prompt 1 of 3, 'a'",
    "negative": "returned a completion with token id -1, outside the policy's vocabulary of .*, 'a'",
    "prompt id": "returned a prompt with token id 1000000",
    "no prompt": "returned no prompt ids for prompt 1 of 3, 'a'",
    "other prompt": "returned a completion of another prompt .* for prompt 1 of 3, 'a'",
    "finish": "returned finish reason 'eos', neither 'stop' nor 'length' for prompt 1 of 3, 'a'",
    "logp shape": r"returned log-probs of shape \(3, \d\) for completions of \(3, \d\)",
    "nan": r"returned a log-prob of nan \(token 1 of the completion\) for prompt 1 of 3, 'a'",
    "inf": "returned a log-prob of -inf",
    "kept shape": r"returned kept ids of shape \(2, \d, \d\) for completions of \(3, \d\)",
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_a_fault_with_the_samplers_name_and_the_prompt(case: str, policy: Any, good: Rollout) -> None:
    with pytest.raises(Fault, match=CASES[case]) as caught:
        checked_rollout(Returns(spoiled(good, case)), policy, PROMPTS, TOP_K, 1, "dist 1.0: sampler 'x'")
    assert caught.value.exit_status == 4
    assert caught.value.what.startswith("dist 1.0: sampler 'x' returned ")


def test_a_rollout_without_mistake_passes_as_it_is(policy: Any, good: Rollout) -> None:
    assert checked_rollout(Returns(good), policy, PROMPTS, TOP_K, 1) is good
    bare = replace(good, sampler_logp_BT=None, kept_BTK=None)
    assert checked_rollout(Returns(bare), policy, PROMPTS, TOP_K, 1) is bare


def test_log_probs_behind_the_end_are_looked_at_too(policy: Any, good: Rollout) -> None:
    assert good.sampler_logp_BT is not None
    shorter = replace(good, completion_ids=(good.completion_ids[0][:2], *good.completion_ids[1:]))
    assert checked_rollout(Returns(shorter), policy, PROMPTS, TOP_K, 1) is shorter
    spoiled_BT = good.sampler_logp_BT.masked_fill(~shorter.mask_BT, float("nan"))
    with pytest.raises(Fault, match=r"a log-prob of nan \(behind the end of the completion\) for prompt 0 of 3"):
        checked_rollout(Returns(replace(shorter, sampler_logp_BT=spoiled_BT)), policy, PROMPTS, TOP_K, 1)


def test_texts_without_ids_come_only_where_there_is_no_policy(policy: Any, good: Rollout) -> None:
    texts = replace(
        good, text_only=True, prompt_ids=((),) * 3, completion_ids=((),) * 3, tokenizer_id="", sampler_logp_BT=None
    )
    texts = replace(texts, kept_BTK=None)
    assert checked_rollout(Returns(texts), None, PROMPTS, TOP_K, 1) is texts
    assert select_rows(texts, [2, 0]).texts == (texts.texts[2], texts.texts[0])
    with pytest.raises(Fault, match="texts without token ids, which is for samplers that say so beforehand"):
        checked_rollout(Returns(texts), policy, PROMPTS, TOP_K, 1)
    with pytest.raises(Fault, match="no text_only rollout, though it was given no policy"):
        checked_rollout(Returns(good), None, PROMPTS, TOP_K, 1)
    with pytest.raises(Fault, match="token ids beside text_only for prompt 1 of 3, 'a'"):
        checked_rollout(Returns(replace(texts, completion_ids=((), (4,), ()))), None, PROMPTS, TOP_K, 1)
    with pytest.raises(UserError, match="count tokens, and this sampler gives texts without ids"):
        Length(1.0, 0).score(texts)


def test_selected_rows_are_those_rows_cut_to_the_longest(policy: Any) -> None:
    prompts = [PROMPTS[i] for i in (0, 1, 1, 2, 0)]
    whole = HFSampler(8).rollout(policy, prompts, TOP_K, 3)
    rows = [3, 2, 1]
    part = select_rows(whole, rows)
    width = max(len(whole.completion_ids[b]) for b in rows)
    assert part.texts == tuple(whole.texts[b] for b in rows)
    assert part.group_B.tolist() == [0, 1, 1]
    assert part.sampler_logp_BT is not None
    assert whole.sampler_logp_BT is not None
    assert torch.equal(part.sampler_logp_BT, whole.sampler_logp_BT[rows, :width])
    assert checked_rollout(Returns(part), policy, [prompts[b] for b in rows], TOP_K, 3) is part


def test_long_texts_are_shortened() -> None:
    assert shortened("x" * 500) == repr("x" * 200 + "…")
    assert shortened(Prompt(prompt="a\nb")) == r"'a\nb'"
