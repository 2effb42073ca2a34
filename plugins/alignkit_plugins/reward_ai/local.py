"""The judge in this process: log-probabilities of the labels after the question, exact and without sampling."""

import math
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkit.batches import Row, TokenBatch
from alignkit.context import BuildContext
from alignkit.errors import UserError
from alignkit.modeling import folders
from alignkit.modeling.encoding import TextEncoder
from alignkit.records import Message
from alignkit.training.batching import micro_batches
from alignkit_plugins.reward_ai.answers import Answer, Keep, Question, Spent, failed
from alignkit_plugins.reward_ai.config import AIConfig

Ids = tuple[int, ...]
# Of what stands before a label, so many characters are looked at to find its tokens: more than any token has.
TAIL = 64


class _Prompt(NamedTuple):
    question: Question
    ids: list[int]
    # The labels' tokens after this question.
    label_ids: list[Ids]

    @property
    def beginnings(self) -> list[Ids]:
        """A row each: with labels of one token each, one row per question."""
        return sorted({ids[:-1] for ids in self.label_ids})


class LocalJudge:
    """Satisfies `Judge`. P(label) is the product of its tokens' probabilities after the question."""

    verdict = False

    def __init__(
        self, module: Any, encoder: TextEncoder, labels: Sequence[str], chat: bool, batch_tokens: int, revision: str
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.encoder = encoder
        self.tokenizer_id = encoder.tokenizer_id
        self.labels = tuple(labels)
        self.chat = chat
        self.batch_tokens = batch_tokens
        self.revision = revision
        config = module.config.get_text_config()
        self.max_positions: int | None = getattr(config, "max_position_embeddings", None)
        # Questions mostly end alike.
        self._label_ids = lru_cache(1024)(partial(_label_ids, encoder, self.labels))
        self._label_ids("")
        self._special = _special_tokens(encoder)
        self.identity: dict[str, Any] = {
            "kind": "local",
            "revision": revision,
            "tokenizer": encoder.tokenizer_id,
            "chat": chat,
            "dtype": str(next(module.parameters()).dtype),
        }

    @classmethod
    def load(cls, config: AIConfig, context: BuildContext) -> "LocalJudge":
        """Load model and tokenizer; code that comes with a model is not run."""
        from transformers import AutoModelForCausalLM

        path = str(context.resolve(config.model)) if config.model.startswith("@") else config.model
        module = folders.load_model(AutoModelForCausalLM, path, dtype=getattr(torch, config.dtype))
        encoder = folders.load_encoder(path, module)
        chat = config.chat == "auto" and bool(getattr(encoder.tokenizer, "chat_template", None))
        labels = config.plain_labels()
        if config.labels is None and not chat:
            labels = tuple(f" {label}" for label in labels)
        commit = getattr(module.config, "_commit_hash", None)
        revision = folders.revision(path) + (f"@{commit}" if commit else "")
        judge = cls(module.to(context.device), encoder, labels, chat, config.batch_tokens, revision)
        judge.identity["precision"] = context.recipe.precision
        return judge

    def ask(self, questions: Sequence[Question], keep: Keep) -> None:
        """Label probabilities for each question; one that is too long for the model is skipped and says so."""
        prompts: list[_Prompt] = []
        for question in questions:
            ids = self._encoded(question.text)
            label_ids = self._labels_after(question.text)
            longest = max(len(label) for label in label_ids) - 1
            if self.max_positions is not None and len(ids) + longest > self.max_positions:
                words = f"the question has {len(ids)} tokens and the judge {self.max_positions} positions"
                keep(question, failed("skipped", words))
            else:
                prompts.append(_Prompt(question, ids, label_ids))
        self._ask(prompts, keep)

    def new_costs(self) -> Spent:
        """Nothing."""
        return Spent()

    def cost(self, spent: Spent) -> float:
        """Nothing."""
        return 0.0

    def _encoded(self, text: str) -> list[int]:
        plain = self._plain(text)
        return self.encoder.prompt((Message(role="user", content=plain),) if self.chat else plain)

    def _plain(self, text: str) -> str:
        # Words that the tokenizer would read as a special token could end the judge's question within a candidate.
        return self._special.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text) if self._special else text

    def _labels_after(self, text: str) -> list[Ids]:
        """The labels' tokens after this question. In a chat template the answer is encoded apart from it."""
        return self._label_ids("" if self.chat else self._plain(text)[-TAIL:])

    def _ask(self, prompts: Sequence[_Prompt], keep: Keep) -> None:
        rows = [(n, begin) for n, prompt in enumerate(prompts) for begin in prompt.beginnings]
        lengths = [len(prompts[n].ids) + len(begin) for n, begin in rows]
        known: dict[int, dict[int, float]] = {}
        for indices in micro_batches(lengths, self.batch_tokens):
            batch = [(prompts[rows[i][0]], rows[i][1]) for i in indices]
            for i, found in zip(indices, self._log_probs(batch), strict=True):
                n = rows[i][0]
                known.setdefault(n, {}).update(found)
                if len(known[n]) == len(self.labels):
                    keep(prompts[n].question, _answer(known.pop(n), prompts[n].label_ids))

    @torch.no_grad()
    def _log_probs(self, rows: Sequence[tuple[_Prompt, Ids]]) -> list[dict[int, float]]:
        """For each (question, beginning): log P of every label that begins so, by the label's number."""
        whole = [Row([*prompt.ids, *begin], [False] * (len(prompt.ids) + len(begin))) for prompt, begin in rows]
        batch = TokenBatch.from_rows(whole, self.encoder.pad_id, self.module.device)
        width = max(len(begin) for _, begin in rows) + 1
        ends_B = batch.mask_BT.long().sum(-1) - 1
        wanted_BK = (ends_B[:, None] - width + 1 + torch.arange(width, device=ends_B.device)).clamp(min=0)
        logp_BKV = torch.log_softmax(_logits_at(self.module, batch, wanted_BK).float(), -1)
        found: list[dict[int, float]] = []
        for b, (prompt, begin) in enumerate(rows):
            mine = {n: ids for n, ids in enumerate(prompt.label_ids) if ids[:-1] == begin}
            first = width - len(begin) - 1
            logp = {n: logp_BKV[b, list(range(first, width)), list(ids)].double().sum() for n, ids in mine.items()}
            found.append({n: float(value) for n, value in logp.items()})
        return found


def _logits_at(module: Any, batch: TokenBatch, positions_BK: Tensor) -> Tensor:
    """The model's own logits at these positions, [B, K, V].

    Hidden states are chosen before the vocabulary projection: [B, T, V] would be the largest thing in memory by far.
    The projection is computed in float32: rounded to bfloat16, a logit of 20 moves in steps of 0.125.
    """

    def choose(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h_BTH = inputs[0]
        chosen_BKH = h_BTH.gather(1, positions_BK[..., None].expand(-1, -1, h_BTH.shape[-1]))
        return (chosen_BKH, *inputs[1:])

    def project(head: Any, inputs: tuple[Tensor, ...], out_BKV: Tensor) -> Tensor:
        if out_BKV.dtype == torch.float32 or not isinstance(head, torch.nn.Linear):
            return out_BKV
        bias_V = head.bias.float() if head.bias is not None else None
        with torch.autocast(out_BKV.device.type, enabled=False):
            return torch.nn.functional.linear(inputs[0].float(), head.weight.float(), bias_V)

    head = module.get_output_embeddings()
    handles = [head.register_forward_pre_hook(choose), head.register_forward_hook(project)]
    try:
        # No attention mask: rows are padded on the right and attention is causal.
        logits: Tensor = module(input_ids=batch.ids_BT, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    if logits.shape[:2] != positions_BK.shape:
        raise UserError(
            f"{type(module).__name__} computes logits in a way that is not known here",
            where="judge",
            hint="serve the model and use judge: openai",
        )
    return logits


def _answer(logp: dict[int, float], label_ids: Sequence[Ids]) -> Answer:
    """Probabilities of the labels; of a label that begins a longer one only what is not the longer one's.

    So `1` and `10` are told apart also where the tokenizer writes 10 as 1 and 0.
    """
    mass = [math.exp(logp[n]) for n in range(len(label_ids))]
    for n, ids in enumerate(label_ids):
        longer = [m for m, other in enumerate(label_ids) if len(other) > len(ids) and other[: len(ids)] == ids]
        # A longer one that begins a still longer one has that one's share in it already.
        top = [
            m for m in longer if not any(k != m and label_ids[m][: len(label_ids[k])] == label_ids[k] for k in longer)
        ]
        mass[n] = max(0.0, mass[n] - sum(math.exp(logp[m]) for m in top))
    total = math.fsum(mass)
    if total <= 0.0:
        return failed("parse_error", "every label has probability 0")
    return Answer("ok", tuple(m / total for m in mass), total)


def _label_ids(encoder: TextEncoder, labels: Sequence[str], before: str) -> list[Ids]:
    """The tokens of each label after the text `before`.

    Alone, a label may have others: Llama 2's tokenizer puts a space before every text.
    """
    start = encoder.text(before) if before else []
    found = []
    for label in labels:
        whole = encoder.text(before + label)
        # Where the label's beginning grows into the question's last token, the model would go on after that token.
        apart = whole[: len(start)] != start
        found.append(tuple(encoder.text(label) if apart else whole[len(start) :]))
    for n, (label, ids) in enumerate(zip(labels, found, strict=True)):
        if not ids or ids in found[:n]:
            raise UserError(
                f"the judge's tokenizer has no tokens of their own for the label {label!r}",
                where="labels",
                hint="choose labels whose words it knows",
            )
    return found


def _special_tokens(encoder: TextEncoder) -> re.Pattern[str] | None:
    added = encoder.tokenizer.added_tokens_decoder.values()
    words = {*encoder.tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    longest_first = sorted((re.escape(w) for w in words if len(w) > 1), key=lambda w: (-len(w), w))
    return re.compile("|".join(longest_first)) if longest_first else None
