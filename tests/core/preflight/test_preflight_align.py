"""The alignment loop before it runs: prompts, models that must go together, a reward model that must know its pairs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.data.store import write_records
from alignkit.preflight import Sample, optimizer_findings
from alignkit.preflight.folder import model_facts
from alignkit.preflight.options import MANY_PASSES, sampling_findings, usage_findings
from alignkit.preflight.prompts import prompt_findings
from alignkit.preflight.reward import PAIRS, sanity_findings
from alignkit.records import PreferencePair, Prompt, Sampling
from alignkit.training.config import DataTrainingConfig
from alignkit.training.rollout_config import RolloutTrainingConfig
from helpers.models import make_policy, make_scorer, make_tokenizer
from helpers.preflight import Context, Facts, codes, examine, with_code

PROMPTS = [Prompt(prompt=f"the film {n}") for n in range(50)]


def sample(prompts: Sequence[Prompt]) -> Sample:
    """Prompts that stand in no file."""
    return Sample(list(enumerate(prompts, 1)), len(prompts), "./prompts.jsonl")


class TestOptions:
    """What needs no file."""

    def test_learning_rates(self) -> None:
        assert codes(optimizer_findings(DataTrainingConfig(lr=9e-3))) == []
        assert with_code(optimizer_findings(DataTrainingConfig(lr=1e-2)), "R040").where == "lr"
        critic = RolloutTrainingConfig(lr=1e-5, critic_lr=0.5)
        assert with_code(optimizer_findings(critic), "R040").where == "critic_lr"

    def test_parts_of_the_distribution(self) -> None:
        assert codes(sampling_findings(Sampling(temperature=0.5))) == []
        assert "top_k 5 and top_p 0.9" in with_code(sampling_findings(Sampling(top_k=5, top_p=0.9)), "R041").what

    def test_how_often_prompts_are_asked(self) -> None:
        assert codes(usage_findings(10, 64, 1, 640)) == []
        often = with_code(usage_findings(MANY_PASSES * 10, 64, 1, 640), "R033")
        assert "640 prompts is asked in 10 iterations" in often.what
        assert codes(usage_findings(1, 64, 4, 16)) == []  # 16 prompts, each four times
        assert codes(usage_findings(1, 64, 4, 15)) == ["R029"]


class TestPrompts:
    """Against the 128 positions of the tiny model."""

    def test_room_for_the_answer(self, model: Facts) -> None:
        facts = model()
        longest = max(len(facts.encoder.prompt(p.prompt)) for p in PROMPTS)
        fits = Sampling(max_length=128 - longest)
        assert codes(prompt_findings(facts, sample(PROMPTS), fits, None)) == []
        over = Sampling(max_length=129 - longest)
        finding = with_code(prompt_findings(facts, sample(PROMPTS), over, None), "R030")
        assert f"a prompt of {longest} tokens and an answer of {129 - longest}" in finding.what

    def test_one_long_prompt_among_thousands_is_found(self, model: Facts) -> None:
        prompts = [Prompt(prompt=f"the film {n}") for n in range(3000)]
        prompts[1234] = Prompt(prompt="the film " * 60)
        found = prompt_findings(model(), sample(prompts), Sampling(max_length=32), None)
        assert codes(found) == ["R030"]

    def test_prompts_that_are_left_out(self, model: Facts) -> None:
        facts = model()
        long = [Prompt(prompt="the film " * 60) for _ in range(5)]
        some = list(prompt_findings(facts, sample([*PROMPTS, *long]), Sampling(max_length=32), 20))
        assert codes(some) == ["R031"]
        assert "5 of 55 rows have more than 20 tokens" in some[0].what
        assert codes(prompt_findings(facts, sample(long), Sampling(max_length=32), 20)) == ["R032"]

    def test_a_template_that_an_answer_does_not_continue(self, model: Facts) -> None:
        template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
        template += "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
        chat: Any = [Prompt.model_validate({"prompt": [{"role": "user", "content": "is it good?"}]})]
        found = prompt_findings(model(chat=True, template=template), sample(chat), Sampling(max_length=32), None)
        assert "changes earlier turns" in with_code(found, "R017").what


def align(**options: Any) -> dict[str, Any]:
    """A step that aligns `@base` on `@data` with the reward model `@reward`."""
    base = {"id": "aligned", "step": "align", "policy": "@base", "prompts": "@data", "iterations": 2, "batch_size": 8}
    source = {"name": "reward_model", "model": "@reward"}
    return {**base, "reward_source": source, "sampling": {"max_length": 16}, **options}


@pytest.fixture
def there(tmp_path: Path) -> dict[str, Path]:
    """A policy, a reward model with the same tokenizer, prompts and the pairs that the reward model learned from."""
    write_records(tmp_path / "prompts.jsonl", PROMPTS)
    make_policy("llama", make_tokenizer()).save(tmp_path / "base")
    make_scorer(tmp_path / "start").save(tmp_path / "reward")
    pairs = [PreferencePair(prompt=f"film {n}", chosen=f" is good {n}", rejected=f" is bad {n}") for n in range(40)]
    write_records(tmp_path / "preferences.jsonl", ordered(tmp_path / "reward", pairs, right=True))
    return {
        "@base": tmp_path / "base",
        "@reward": tmp_path / "reward",
        "@data.prompts": tmp_path / "prompts.jsonl",
        "@labels.preferences": tmp_path / "preferences.jsonl",
    }


def ordered(reward: Path, pairs: Sequence[PreferencePair], right: bool) -> list[PreferencePair]:
    """The pairs turned so that the reward model's own scores agree with all of them, or with none."""
    from alignkit.modeling.scorer import SequenceScorer

    scorer = SequenceScorer.load(str(reward), torch.device("cpu"))
    found = []
    for pair in pairs:
        texts = (pair.chosen, pair.rejected)
        a, b = scorer.score_rows([scorer.row(pair.prompt, text) for text in texts]).tolist()
        agrees = (a > b) == right
        found.append(pair if agrees else pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen}))
    return found


LABELS = {"id": "labels", "step": "collect", "prompts": "@data", "reward_source": "simulated"}
REWARD = {"id": "reward", "step": "train", "optimizer_stage": "reward_model", "data": "@labels"}


class TestModels:
    """What must go together."""

    def test_a_sound_loop_has_only_an_estimate_to_show(self, in_recipe: Context, there: dict[str, Path]) -> None:
        found = examine(in_recipe([LABELS, REWARD, align()], there))
        assert codes(found) == ["R064"]

    def test_a_reference_and_a_critic_with_other_tokenizers(
        self, in_recipe: Context, there: dict[str, Path], tmp_path: Path
    ) -> None:
        make_policy("llama", make_tokenizer(chat=True)).save(tmp_path / "other")
        there["@other"] = tmp_path / "other"
        found = examine(in_recipe([LABELS, REWARD, align(reference="@other", critic_init="@other")], there))
        assert (with_code(found, "R050").where, with_code(found, "R052").where) == ("reference", "critic_init")

    def test_a_reward_model_with_another_tokenizer_is_a_note(
        self, in_recipe: Context, there: dict[str, Path], tmp_path: Path
    ) -> None:
        make_scorer(tmp_path / "start2", tokenizer=make_tokenizer(chat=True)).save(tmp_path / "reward2")
        there["@reward"] = tmp_path / "reward2"
        found = examine(in_recipe([align()], there))
        assert with_code(found, "R051").where == "reward_source.model"

    def test_completions_longer_than_what_the_reward_model_knows(
        self, in_recipe: Context, there: dict[str, Path], tmp_path: Path
    ) -> None:
        short = {**REWARD, "optimizer_stage": {"name": "reward_model", "max_length": 12}}
        found = examine(in_recipe([LABELS, short, align()], there))
        assert "learned from at most 12" in with_code(found, "R053").what
        config = tmp_path / "reward" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": 16}))
        found = examine(in_recipe([align()], there))
        assert with_code(found, "R054").severity == "error"

    def test_more_samples_than_the_recipe_says(self, in_recipe: Context, there: dict[str, Path]) -> None:
        found = examine(in_recipe([LABELS, REWARD, align(advantage="grpo")], there))
        raised = with_code(found, "R043")
        assert (raised.what, raised.where) == ("1 is too few for grpo: 2 are drawn", "samples_per_prompt")
        enough = in_recipe([LABELS, REWARD, align(advantage="grpo", samples_per_prompt=2)], there)
        assert "R043" not in codes(examine(enough))

    def test_samples_that_were_drawn_otherwise(self, in_recipe: Context, there: dict[str, Path]) -> None:
        labels = {**LABELS, "sampling": {"temperature": 0.5}}
        found = examine(in_recipe([labels, REWARD, align()], there))
        assert "temperature 0.5 there, 1.0 here" in with_code(found, "R042").what

    def test_a_policy_that_is_not_there_yet_is_looked_at_as_its_start(
        self, in_recipe: Context, there: dict[str, Path]
    ) -> None:
        sft = {"id": "sft", "step": "train", "optimizer_stage": "sft", "data": "@data", "policy": "@base"}
        found = examine(in_recipe([sft, align(policy="@sft", sampling={"max_length": 128})], there))
        assert with_code(found, "R030").where == "sampling.max_length"


class TestSanity:
    """A reward model against pairs that it learned from."""

    def look(self, context: Any, reward: Path) -> list[str]:
        facts = model_facts(str(reward))
        assert facts is not None
        return codes(sanity_findings(facts, "@reward", context, "reward_source.model"))

    @pytest.mark.parametrize(("right", "expected"), [(40, []), (21, []), (20, ["R055"]), (0, ["R055"])])
    def test_the_share_of_right_pairs(
        self, right: int, expected: list[str], in_recipe: Context, there: dict[str, Path]
    ) -> None:
        from alignkit.data.store import RecordFile

        pairs = list(RecordFile(there["@labels.preferences"], PreferencePair))
        wrong_ones = ordered(there["@reward"], pairs[: 40 - right], right=False)
        write_records(there["@labels.preferences"], [*wrong_ones, *pairs[40 - right :]])
        assert self.look(in_recipe([LABELS, REWARD, align()], there), there["@reward"]) == expected

    def test_ten_pairs_are_enough_if_they_are_right(self, in_recipe: Context, there: dict[str, Path]) -> None:
        from alignkit.modeling.scorer import SequenceScorer

        counts = []
        score_rows = SequenceScorer.score_rows

        def counted(self: SequenceScorer, rows: Any, *more: Any) -> Any:
            counts.append(len(rows))
            return score_rows(self, rows, *more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SequenceScorer, "score_rows", counted)
            assert self.look(in_recipe([LABELS, REWARD, align()], there), there["@reward"]) == []
        assert counts == [2 * PAIRS]

    def test_a_reward_model_from_elsewhere_has_no_pairs(self, in_recipe: Context, there: dict[str, Path]) -> None:
        assert self.look(in_recipe([align()], there), there["@reward"]) == ["R004"]

    @pytest.mark.parametrize("value", [0.0, float("nan")])
    def test_scores_that_say_nothing(self, value: float, in_recipe: Context, there: dict[str, Path]) -> None:
        from alignkit.modeling.scorer import SequenceScorer

        scorer = SequenceScorer.load(str(there["@reward"]), torch.device("cpu"))
        with torch.no_grad():
            scorer.module.score.weight.fill_(value)
        scorer.save(there["@reward"])
        assert self.look(in_recipe([LABELS, REWARD, align()], there), there["@reward"]) == ["R056"]
