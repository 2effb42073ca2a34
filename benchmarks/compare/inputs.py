"""What both sides are given: model folders, texts, and the same rows of token ids in the order of our batches.

Model sizes are those of small Llamas for a CPU. Texts are made here, words without sense whose frequencies follow
Zipf's law; lengths are log-normal as those of chats are, about 110 tokens in the mean and at most 256. A folder of
one's own texts takes their place: demonstrations.jsonl {prompt, completion}, preferences.jsonl {prompt, chosen,
rejected} and prompts.jsonl {prompt}, plain texts, with a space where an answer begins.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignkit.modeling.encoding import TextEncoder
from alignkit.modeling.scorer import SequenceScorer
from alignkit.seeds import derived_seed
from alignkit.training.batching import shuffled_batches

MAX_LENGTH = 256
MAX_PROMPT = 64  # of the prompts that completions are sampled for
STEP = "train"  # the id of the step in every recipe: its seed follows from it
TOKENIZER = 8192  # entries at most; a larger vocabulary of the model is there for its projection
PAD, END = "<pad>", "</s>"
FILES = {"demonstrations": ("prompt", "completion"), "preferences": ("prompt", "chosen", "rejected")}
FILES["prompts"] = ("prompt",)
# Of the logarithm of a length in words; one is 1.2 tokens or so.
PROMPT_LENGTH, ANSWER_LENGTH, SPREAD = 3.2, 4.05, 0.6
Texts = dict[str, list[dict[str, str]]]


@dataclass(frozen=True)
class Size:
    """A Llama."""

    layers: int
    hidden: int
    heads: int
    mlp: int
    vocabulary: int


SIZES = {"tiny": Size(4, 256, 4, 688, 8192), "mid": Size(3, 512, 8, 1376, 32768)}


def made_up(count: int, seed: int = 0, words: tuple[int, int] | None = None) -> Texts:
    """Demonstrations, pairs and prompts without sense; with `words` all prompts and all answers have so many words."""
    draw = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "is", "ol", "un")]
    lexicon = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(20_000)]
    weights = [1 / (rank + 10) for rank in range(len(lexicon))]

    def text(name: str) -> str:
        prompt = name == "prompt"
        length = max(2, round(draw.lognormvariate(PROMPT_LENGTH if prompt else ANSWER_LENGTH, SPREAD)))
        if words is not None:
            length = words[0] if prompt else words[1]
        return ("" if prompt else " ") + " ".join(draw.choices(lexicon, weights, k=length))

    return {part: [{name: text(name) for name in names} for _ in range(count)] for part, names in FILES.items()}


def read(folder: Path) -> Texts:
    """Texts of one's own."""
    return {part: [json.loads(line) for line in _lines(folder / f"{part}.jsonl")] for part in FILES}


def make_model(size: Size, texts: Texts, folder: Path) -> None:
    """A model with random weights and a tokenizer trained on the texts; beside it a classifier with our first head."""
    tokenizer = _tokenizer(min(size.vocabulary, TOKENIZER), texts)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.hidden, intermediate_size=size.mlp, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.heads, max_position_embeddings=2048,
        tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    scorer = SequenceScorer.load(str(folder / "model"), torch.device("cpu"), new_head=True)
    scorer.init_head(torch.Generator().manual_seed(step_seed()))
    scorer.save(folder / "scorer")


def step_seed() -> int:
    """The seed of the recipes' step, with which it shuffles its rows and draws a reward model's head."""
    return derived_seed(0, 1, STEP)


class Inputs:
    """Files for the tasks on one model."""

    def __init__(self, folder: Path, texts: Texts, max_length: int = MAX_LENGTH) -> None:
        self.folder = folder
        self._max_length = max_length
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
        self._encoder = TextEncoder(tokenizer, frozenset(), str(folder))
        self._texts = texts
        self._checked = {part: list(self._fitting(part)) for part in FILES}

    def texts(self, part: str, count: int) -> Path:
        """The first rows as our recipes read them. Raises ValueError if there are too few."""
        found = self._checked[part][:count]
        if len(found) < count:
            raise ValueError(f"{count} rows of {part} are needed, and {len(found)} are short enough")
        path = self.folder / f"{part}-{count}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
        return path

    def rows(self, task: str, part: str, count: int, batch_size: int) -> tuple[Path, list[int]]:
        """The same rows as token ids, batch by batch in our order (for DPO as texts); and the tokens of each batch."""
        batches = shuffled_batches(count, batch_size, torch.Generator().manual_seed(step_seed()))
        encoded = [_AS_ROW[task](row, self._ids(row)) for row in self._checked[part][:count]]
        path = self.folder / f"{task}-{count}-{batch_size}.json"
        path.write_text(json.dumps([encoded[i][0] for batch in batches for i in batch]), encoding="utf-8")
        return path, [sum(encoded[i][1] for i in batch) for batch in batches]

    def exact(self, count: int, length: int) -> list[tuple[str, list[int]]]:
        """Prompts of exactly so many tokens. Raises ValueError if the texts do not give as many."""
        found = []
        for row in self._texts["demonstrations"]:
            words = (row["prompt"] + row["completion"]).split(" ")
            whole = (" ".join(words[:n]) for n in range(1, len(words) + 1))
            encoded = next(((t, ids) for t in whole if len(ids := self._encoder.prompt(t)) >= length), None)
            found += [encoded] if encoded is not None and len(encoded[1]) == length else []
            if len(found) == count:
                return found
        raise ValueError(f"only {len(found)} texts have a beginning of {length} tokens")

    def lengths(self, part: str) -> dict[str, float]:
        """Mean tokens of a row, and the share of its last text, on which a policy is trained."""
        whole = [self._ids(row) for row in self._checked[part]]
        total = sum(len(ids) for row in whole for ids in row.values())
        last = sum(len(list(row.values())[-1]) for row in whole)
        return {"rows": len(whole), "mean_tokens": round(total / len(whole), 1), "last_share": round(last / total, 3)}

    def _ids(self, row: dict[str, str]) -> dict[str, list[int]]:
        prompt = row["prompt"]
        found = {"prompt": self._encoder.prompt(prompt)}
        return found | {name: self._encoder.completion(prompt, row[name]) for name in row if name != "prompt"}

    def _fitting(self, part: str) -> Iterator[dict[str, str]]:
        for row in self._texts[part]:
            ids = self._ids(row)
            longest = len(ids["prompt"]) + max((len(x) for name, x in ids.items() if name != "prompt"), default=0)
            if longest <= (MAX_PROMPT if part == "prompts" else self._max_length):
                yield row


def _sft_row(row: dict[str, str], ids: dict[str, list[int]]) -> tuple[dict[str, Any], int]:
    whole = ids["prompt"] + ids["completion"]
    mask = [0] * len(ids["prompt"]) + [1] * len(ids["completion"])
    return {"input_ids": whole, "completion_mask": mask}, len(whole)


def _reward_row(row: dict[str, str], ids: dict[str, list[int]]) -> tuple[dict[str, Any], int]:
    sides = {f"{side}_ids": ids["prompt"] + ids[side] for side in ("chosen", "rejected")}
    return sides, sum(map(len, sides.values()))


def _dpo_row(row: dict[str, str], ids: dict[str, list[int]]) -> tuple[dict[str, Any], int]:
    """TRL's DPO takes no ids; it closes texts itself, and that its tokens are these is checked by their number."""
    return row, _reward_row(row, ids)[1]


_AS_ROW = {"sft": _sft_row, "reward": _reward_row, "dpo": _dpo_row}


def _tokenizer(vocabulary: int, texts: Texts) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END], show_progress=False, min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    bpe.train_from_iterator((text for rows in texts.values() for row in rows for text in row.values()), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )


def _lines(path: Path) -> Iterable[str]:
    return path.read_text(encoding="utf-8").splitlines()
