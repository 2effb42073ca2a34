"""A score is a function of the row alone, read at its true last token, and transformers reads the same folder alike."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from alignkit.batches import Row, TokenBatch
from alignkit.errors import UserError
from alignkit.modeling.backbone import hidden_states
from alignkit.modeling.scorer import SequenceScorer
from helpers.models import make_policy, make_scorer, make_tokenizer, random_rows

LENGTHS = [5, 17, 3, 9, 30]


def random_ids(lengths: list[int] = LENGTHS) -> list[list[int]]:
    return [list(r.ids) for r in random_rows(300, lengths)]


def plain_scores(module: Any, rows: list[list[int]], pad: int) -> torch.Tensor:
    """Scores by transformers' own forward pass over a right-padded batch."""
    width = max(map(len, rows))
    ids = torch.tensor([r + [pad] * (width - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
    with torch.no_grad():
        scores: torch.Tensor = module.eval()(ids, attention_mask=mask).logits.squeeze(-1)
    return scores


@pytest.fixture(params=["llama", "gpt2"])
def scorer(request: pytest.FixtureRequest, tmp_path: Path) -> SequenceScorer:
    return make_scorer(tmp_path / "base", request.param)


class TestScores:
    def test_do_not_depend_on_other_rows_their_order_or_micro_batches(self, scorer: SequenceScorer) -> None:
        rows = random_ids()
        alone = torch.stack([scorer.score_rows([r])[0] for r in rows])
        assert float(alone.std()) > 0.1
        for tokens in (1, 40, 10**6):
            assert torch.allclose(scorer.score_rows(rows, tokens), alone, atol=1e-5)
        assert torch.allclose(scorer.score_rows(rows[::-1]), alone.flip(0), atol=1e-5)

    def test_the_saved_folder_gives_plain_transformers_the_same_scores(
        self, scorer: SequenceScorer, tmp_path: Path
    ) -> None:
        rows = [[*r, scorer.encoder.end_id] for r in random_ids()]
        ours = scorer.score_rows(rows)
        scorer.save(tmp_path / "saved")
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
        assert plain.config.num_labels == 1
        assert torch.allclose(plain_scores(plain, rows, scorer.encoder.pad_id), ours, atol=1e-5)
        again = SequenceScorer.load(str(tmp_path / "saved"), torch.device("cpu"))
        assert torch.equal(again.score_rows(rows), ours)

    def test_the_tokenizers_padding_side_does_not_matter(self, scorer: SequenceScorer) -> None:
        rows = random_ids()
        scores = []
        for side in ("left", "right"):
            scorer.encoder.tokenizer.padding_side = side
            scores.append(scorer.score_rows(rows))
        assert torch.equal(*scores)

    def test_transformers_on_the_left_padded_folder_agrees_too(self, scorer: SequenceScorer) -> None:
        rows = [[*r, scorer.encoder.end_id] for r in random_ids()]
        width = max(map(len, rows))
        ids = torch.tensor([[scorer.encoder.pad_id] * (width - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        with torch.no_grad():
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            theirs = scorer.module.eval()(ids, attention_mask=mask, position_ids=positions).logits.squeeze(-1)
        assert torch.allclose(theirs, scorer.score_rows(rows), atol=1e-5)

    def test_the_pad_token_as_a_real_last_token_is_read(self, scorer: SequenceScorer) -> None:
        row = random_ids([6])[0]
        assert scorer.score_rows([[*row, scorer.encoder.pad_id]])[0] != scorer.score_rows([row])[0]

    def test_the_state_read_is_the_last_one(self, scorer: SequenceScorer) -> None:
        row = random_ids([9])[0]
        with torch.no_grad():
            h = scorer.module.base_model(torch.tensor([row])).last_hidden_state[0, -1]
            assert float(scorer.module.score(h)) == pytest.approx(float(scorer.score_rows([row])[0]), abs=1e-5)

    def test_dropout_is_off_whatever_the_mode(self, tmp_path: Path) -> None:
        make_scorer(tmp_path / "base", "gpt2").save(tmp_path / "saved")
        dropout = {"resid_pdrop": 0.5, "embd_pdrop": 0.5}
        scorer = SequenceScorer.load(str(tmp_path / "saved"), torch.device("cpu"), overrides=dropout)
        rows = random_ids()
        scorer.module.train()
        first = scorer.score_rows(rows)
        scorer.module.train()
        assert torch.equal(scorer.score_rows(rows), first)


class TestPadEqualsEnd:
    """Many tokenizers pad with their end token. Scores here do not care; transformers' own forward pass does."""

    @pytest.fixture
    def same(self, tmp_path: Path) -> SequenceScorer:
        return make_scorer(tmp_path / "same", tokenizer=make_tokenizer(pad="</s>"))

    def test_the_end_token_is_read_whatever_the_padding(self, same: SequenceScorer) -> None:
        assert same.encoder.pad_id == same.encoder.end_id
        rows = [[*r, same.encoder.end_id] for r in random_ids()]
        alone = torch.stack([same.score_rows([r])[0] for r in rows])
        assert torch.allclose(same.score_rows(rows), alone, atol=1e-5)
        without = same.score_rows([r[:-1] for r in rows])
        assert float((alone - without).abs().min()) > 1e-4

    def test_plain_transformers_reads_the_token_before_the_end(self, same: SequenceScorer, tmp_path: Path) -> None:
        """Stated, not wished for: it takes the last token whose id differs from pad (docs say so too)."""
        same.save(tmp_path / "saved")
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
        rows = random_ids()
        closed = [[*r, same.encoder.end_id] for r in rows]
        theirs = plain_scores(plain, closed, same.encoder.pad_id)
        assert torch.allclose(theirs, same.score_rows(rows), atol=1e-5)
        assert not torch.allclose(theirs, same.score_rows(closed), atol=1e-3)

    def test_a_tokenizer_without_pad_works(self, tmp_path: Path) -> None:
        scorer = make_scorer(tmp_path / "none", tokenizer=make_tokenizer(pad=None))
        rows = random_ids()
        alone = torch.stack([scorer.score_rows([r])[0] for r in rows])
        assert torch.allclose(scorer.score_rows(rows), alone, atol=1e-5)


class TestHead:
    def test_the_reward_head_is_drawn_with_deviation_one_over_root_of_width_plus_one(self, llama: Any) -> None:
        wide = torch.nn.Module()
        wide.score = torch.nn.Linear(4000, 1)
        scorer = SequenceScorer(wide, llama.encoder)
        scorer.init_head(torch.Generator().manual_seed(0))
        assert float(wide.score.weight.detach().std()) == pytest.approx(4001**-0.5, rel=0.05)
        assert not wide.score.bias.any()
        scorer.init_head(None)
        assert not wide.score.weight.any()

    def test_a_model_without_a_one_label_head_is_refused(self, llama: Any) -> None:
        with pytest.raises(UserError, match="no one-label linear head"):
            SequenceScorer(llama.module, llama.encoder)


class TestCritic:
    def test_a_new_critic_says_zero_and_leaves_the_policys_config_alone(self, policy: Any) -> None:
        critic = policy.critic(None)
        rows = random_rows(300, LENGTHS)
        assert not critic.values(TokenBatch.from_rows(rows, policy.pad_id)).any()
        assert policy.module.config.num_labels == 2
        assert critic.module.config.num_labels == 1

    def test_it_is_a_copy_of_the_policys_backbone(self, policy: Any) -> None:
        critic = policy.critic(None)
        batch = TokenBatch.from_rows(random_rows(300, LENGTHS), policy.pad_id)
        policy.module.eval(), critic.module.eval()
        assert torch.equal(hidden_states(critic.module, batch), hidden_states(policy.module, batch))
        with torch.no_grad():
            next(iter(critic.module.base_model.parameters())).add_(1.0)
        assert not torch.equal(hidden_states(critic.module, batch), hidden_states(policy.module, batch))

    def test_values_are_those_of_the_states_before_each_target(self, scorer: SequenceScorer) -> None:
        rows = random_rows(300, LENGTHS)
        with torch.no_grad():
            values = scorer.values(TokenBatch.from_rows(rows, scorer.encoder.pad_id))
            expected = []
            for row in rows:
                states = scorer.module.base_model(torch.tensor([list(row.ids)])).last_hidden_state[0]
                expected += [scorer.module.score(states[t - 1])[0] for t in range(len(row.ids)) if row.target[t]]
        assert torch.allclose(values, torch.stack(expected), atol=1e-5)

    def test_from_a_reward_model_it_has_that_backbone_and_a_zero_head(self, tmp_path: Path) -> None:
        reward = make_scorer(tmp_path / "base")
        reward.save(tmp_path / "reward")
        critic = make_policy("llama", seed=9).critic(tmp_path / "reward")
        batch = TokenBatch.from_rows(random_rows(300, LENGTHS), 0)
        assert not critic.values(batch).any()
        assert torch.allclose(hidden_states(critic.module, batch), hidden_states(reward.module, batch))

    def test_a_reward_model_with_another_tokenizer_is_refused(self, tmp_path: Path) -> None:
        make_scorer(tmp_path / "reward", tokenizer=make_tokenizer(chat=True)).save(tmp_path / "reward")
        with pytest.raises(UserError, match="another tokenizer than the policy"):
            make_policy("llama").critic(tmp_path / "reward")


class TestBackbone:
    def test_a_model_without_positions_refuses_packed_rows(self) -> None:
        class Bare(torch.nn.Module):
            def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
                return type("Out", (), {"last_hidden_state": input_ids[..., None].float()})

        model = torch.nn.Module()
        model.base_model = Bare()
        plain = TokenBatch.from_rows([Row([5, 6, 7], [False, True, True])], 0)
        assert hidden_states(model, plain).shape == (1, 3, 1)
        packed = TokenBatch.from_rows([Row([5, 6, 7, 8], [False, True, False, True], [0, 1, 0, 1])], 0)
        with pytest.raises(UserError, match="packed rows would see each other"):
            hidden_states(model, packed)
