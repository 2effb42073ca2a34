"""Scores from a reward model: token ids when it shares the policy's tokenizer, decoded text otherwise."""

from torch import Tensor

from alignkit.batches import Rollout
from alignkit.context import BuildContext
from alignkit.modeling.scorer import SequenceScorer


class RewardModelSource:
    """Satisfies `alignkit.protocols.Scores`."""

    def __init__(self, scorer: SequenceScorer, max_tokens: int) -> None:
        self.scorer = scorer
        self.max_tokens = max_tokens

    def shares_work(self, context: BuildContext) -> bool:
        """Passes are divided."""
        return True

    def score(self, rollout: Rollout) -> Tensor:
        """One score per completion, [B]; each is read at the stop token behind the completion."""
        if rollout.tokenizer_id == self.scorer.encoder.tokenizer_id:
            rows = [
                [*ids, *self.scorer.closed(prompt.prompt, completion)]
                for prompt, ids, completion in zip(
                    rollout.prompts, rollout.prompt_ids, rollout.completion_ids, strict=True
                )
            ]
        else:
            rows = [self.scorer.row(p.prompt, t) for p, t in zip(rollout.prompts, rollout.texts, strict=True)]
        return self.scorer.score_rows(rows, self.max_tokens)


def load_source(model: str, max_tokens: int, context: BuildContext) -> RewardModelSource:
    """Load the reward model behind a reference, folder or hub name."""
    path = str(context.resolve(model)) if model.startswith("@") else model
    return RewardModelSource(SequenceScorer.load(path, context.device), max_tokens)
