"""The reward model reads a completion as training did: the cut text, closed by one stop token."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from alignkit.batches import Rollout
from alignkit.records import Message, Prompt, Sampling
from alignkit_plugins.reward_reward_model.source import RewardModelSource, load_source
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.context import make_context, make_rollout
from helpers.models import EXTRA, make_policy, make_scorer, make_tokenizer

PROMPTS = ["the quiet film", "a", "I recommend it"]


@pytest.fixture
def source(tmp_path: Path) -> RewardModelSource:
    return RewardModelSource(make_scorer(tmp_path / "base"), 4096)


def canonical(policy: Any, texts: list[str], ends: list[list[int]]) -> Rollout:
    return make_rollout(policy, PROMPTS, [[*policy.encoder.text(t), *e] for t, e in zip(texts, ends, strict=True)])


class TestSameTokenizer:
    texts: ClassVar[list[str]] = [" won me over", " is long", " is warm and slow"]

    def test_the_score_is_that_of_the_text_alone(self, source: RewardModelSource, llama: Any) -> None:
        end = llama.encoder.end_id
        rollout = canonical(llama, self.texts, [[end], [end], [end]])
        alone = [
            source.scorer.score_rows([source.scorer.row(p, t)])[0] for p, t in zip(PROMPTS, self.texts, strict=True)
        ]
        assert torch.allclose(source.score(rollout), torch.stack(alone), atol=1e-5)

    def test_a_completion_cut_for_length_or_ended_by_another_stop_token_scores_alike(
        self, source: RewardModelSource, tokenizer: Any
    ) -> None:
        extra = tokenizer.convert_tokens_to_ids(EXTRA)
        policy = make_policy("llama", tokenizer, stop_ids=[extra])
        source.scorer.encoder.stop_ids |= {extra}
        end = policy.encoder.end_id
        usual = source.score(canonical(policy, self.texts, [[end]] * 3))
        assert torch.allclose(source.score(canonical(policy, self.texts, [[], [extra], [end]])), usual, atol=1e-6)

    def test_sampled_ids_are_read_as_they_are(self, source: RewardModelSource, llama: Any) -> None:
        """Also where decoding and encoding would give other ids."""
        rollout = HFSampler(8).rollout(llama, [Prompt(prompt=p) for p in PROMPTS], Sampling(max_length=10), seed=0)
        assert any(
            tuple(llama.encoder.text(t)) != c for t, c in zip(rollout.texts, rollout.completion_ids, strict=True)
        )
        expected = []
        for prompt, completion in zip(rollout.prompt_ids, rollout.completion_ids, strict=True):
            ids = [*prompt, *(i for i in completion if i != llama.encoder.end_id), llama.encoder.end_id]
            expected.append(source.scorer.score_rows([ids])[0])
        assert torch.allclose(source.score(rollout), torch.stack(expected), atol=1e-5)


def test_another_tokenizer_reads_the_text(source: RewardModelSource, llama: Any) -> None:
    policy = make_policy("llama", make_tokenizer(chat=True))
    assert policy.tokenizer_id != source.scorer.encoder.tokenizer_id
    rollout = make_rollout(policy, ["the film"], [[*policy.encoder.text(" is long"), policy.encoder.end_id]])
    alone = source.scorer.score_rows([source.scorer.row("the film", " is long")])
    assert torch.allclose(source.score(rollout), alone, atol=1e-5)


def test_in_a_conversation_a_cut_answer_is_closed_by_the_turns_end(tmp_path: Path, chat_tokenizer: Any) -> None:
    scorer = make_scorer(tmp_path / "base", tokenizer=chat_tokenizer)
    source = RewardModelSource(scorer, 4096)
    policy = make_policy("llama", chat_tokenizer)
    ask = (Message(role="user", content="the film"),)
    words = policy.encoder.text("is long")
    rows: Any = [
        Rollout(
            prompts=(Prompt(prompt=ask),),
            prompt_ids=(tuple(policy.encode_prompt(ask)),),
            completion_ids=(tuple(words + end),),
            texts=("is long",),
            finish=("length",),
            group_B=torch.zeros(1, dtype=torch.long),
            temperature=1.0,
            tokenizer_id=policy.tokenizer_id,
        )
        for end in ([], [policy.encoder.end_id], [policy.encoder.turn_end_id])
    ]
    alone = float(scorer.score_rows([scorer.row(ask, (Message(role="assistant", content="is long"),))]))
    assert [float(source.score(r)) for r in rows] == [pytest.approx(alone, abs=1e-5)] * 3


def test_the_source_loads_a_saved_folder(source: RewardModelSource, llama: Any, tmp_path: Path) -> None:
    source.scorer.save(tmp_path / "saved")
    rollout = canonical(llama, TestSameTokenizer.texts, [[], [], []])
    again = load_source(str(tmp_path / "saved"), 64, make_context(tmp_path))
    assert torch.allclose(again.score(rollout), source.score(rollout), atol=1e-5)
