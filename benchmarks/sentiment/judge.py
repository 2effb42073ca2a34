"""The independent judge: a linear classifier of the critics' own labels, which no reward model ever saw.

Other people (the critics who wrote the snippets), another question (was the review good or bad), another model (words
and word pairs). It reads prompt and continuation together.
"""

import json
from pathlib import Path

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.records import plain_text


class CriticsJudge:
    """A reward source for `alignkit.loop.measure`: 1 for a text judged positive, else 0."""

    def __init__(self, data: Path) -> None:
        train = _rows(data / "eval/movie_snippet_critic_labels_train.jsonl")
        test = _rows(data / "eval/movie_snippet_critic_labels_test.jsonl")
        self.classifier: Pipeline = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True),
            LogisticRegression(C=10, max_iter=1000),
        )
        self.classifier.fit([r["text"] for r in train], [r["label"] for r in train])
        self.test_accuracy = float(self.classifier.score([r["text"] for r in test], [r["label"] for r in test]))

    def score(self, rollout: Rollout) -> Tensor:
        """Shape [B]."""
        texts = [plain_text(p.prompt) + t for p, t in zip(rollout.prompts, rollout.texts, strict=True)]
        return torch.tensor(self.classifier.predict(texts), dtype=torch.float32)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
