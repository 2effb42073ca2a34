"""A tiny policy made in memory: small enough for hundreds of checks, complete enough for every stage and sampler.

`TinyPolicy` is also the shortest complete implementation of `alignkit.protocols.Policy` over a transformers model.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from alignkit.batches import Head, Rollout, TokenBatch
from alignkit.modeling import folders
from alignkit.modeling.backbone import hidden_states
from alignkit.modeling.encoding import TextEncoder
from alignkit.modeling.scorer import SequenceScorer
from alignkit.protocols import Policy
from alignkit.records import Content, FinishReason, Prompt

CORPUS = (
    "the quiet film won me over with honest acting and a haunting score",
    "this thriller about two brothers is long and dull and I left early",
    "I recommend it to families who like slow stories with a warm ending",
)
PROMPTS = ("the quiet film", "a", "this thriller about two brothers", "I recommend it", "families", "the score")
PAD, BOS, EOS, TURN_START, TURN_END = "<pad>", "<s>", "</s>", "<|turn|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def tiny_tokenizer(
    chat: bool = False,
    special: Sequence[str] = (PAD, BOS, EOS, TURN_START, TURN_END),
    pad: str | None = PAD,
    template: str = CHAT_TEMPLATE,
) -> Any:
    """A byte-level BPE of 300 entries that encodes any text. With `chat`: `template` and no start token.

    `special`: tokens that are never cut, `BOS` and `EOS` among them; `pad` may be one of them or None.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    if not chat:
        start = [(BOS, tokenizer.token_to_id(BOS))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=start)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )
    if pad is not None:
        fast.pad_token = pad
    if chat:
        fast.chat_template = template
    return fast


class TinyPolicy:
    """Satisfies `alignkit.protocols.Policy`: a transformers model, its text encoder, nothing else."""

    def __init__(self, module: Any, encoder: TextEncoder, revision: str) -> None:
        self.module = module
        self.encoder = encoder
        self.revision = revision
        self.pad_id = encoder.pad_id
        self.tokenizer_id = encoder.tokenizer_id
        self.stop_ids = encoder.stop_ids
        self.max_positions: int | None = module.config.max_position_embeddings

    @classmethod
    def load(cls, folder: Path) -> "TinyPolicy":
        """Read what `save` wrote."""
        module = folders.load_model(AutoModelForCausalLM, str(folder))
        return cls(module, folders.load_encoder(str(folder), module), folders.revision(str(folder)))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.module.device)

    @property
    def head(self) -> Head:
        """The vocabulary projection."""
        return Head(self.module.get_output_embeddings().weight)

    def encode_prompt(self, prompt: Content) -> list[int]:
        """Ids of a prompt, start token included."""
        return self.encoder.prompt(prompt)

    def encode_completion(self, prompt: Content, completion: Content) -> list[int]:
        """Ids of a completion, closed by a stop token."""
        return self.encoder.completion(prompt, completion)

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self.encoder.decode(ids)

    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        """States before each target token, [N, H]."""
        return batch.select(hidden_states(self.module, batch)), self.head

    def reference(self) -> Policy:
        """A frozen copy."""
        frozen = copy.copy(self)
        frozen.module = copy.deepcopy(self.module).eval().requires_grad_(False)
        return frozen

    def critic(self, init: str | Path | None, keep_head: bool = False, shared: bool = False) -> Any:
        """A scalar head on the own states, or a model of its own that starts as a copy of this one."""
        if shared:
            return TrunkCritic(self)
        if init is not None:
            scorer = SequenceScorer.load(str(init), self.device, new_head=not keep_head)
            if not keep_head:
                scorer.init_head(None)
            return scorer
        config = copy.deepcopy(self.module.config)
        config.num_labels = 1
        with torch.random.fork_rng():
            scorer = SequenceScorer(AutoModelForSequenceClassification.from_config(config), self.encoder)
        scorer.module.base_model.load_state_dict(self.module.base_model.state_dict())
        scorer.module.to(self.device)
        scorer.init_head(None)
        return scorer

    def save(self, folder: Path) -> None:
        """Write a folder that transformers loads."""
        folders.save(self.module, self.encoder.tokenizer, folder)


class TrunkCritic:
    """Satisfies `Critic` and `SharesTrunk`: a linear head on the policy's hidden states."""

    def __init__(self, policy: TinyPolicy) -> None:
        self._policy = policy
        self.module = nn.Linear(policy.head.weight_VH.shape[1], 1, bias=False)
        nn.init.zeros_(self.module.weight)

    def values_of(self, h_NH: Tensor) -> Tensor:
        """V of each state, [N]."""
        values_N: Tensor = self.module(h_NH).squeeze(-1)
        return values_N

    def values(self, batch: TokenBatch) -> Tensor:
        """V before each target token, [N]."""
        return self.values_of(self._policy.hidden(batch)[0])

    def save(self, folder: Path) -> None:
        """Write a sequence classifier with a copy of the trunk."""
        whole = self._policy.critic(None)
        with torch.no_grad():
            whole.module.score.weight.copy_(self.module.weight)
        whole.save(folder)


def tiny_policy(seed: int = 0, chat: bool = False, spread: float = 0.3, dropout: float = 0.0) -> TinyPolicy:
    """A random two-layer Llama. `spread`: deviation of its weights; logits far apart make checks sharp."""
    tokenizer = tiny_tokenizer(chat)
    config = AutoConfig.for_model(
        "llama",
        **SIZE,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=spread,
        attention_dropout=dropout,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(config).eval()
    return TinyPolicy(module, TextEncoder(tokenizer, folders.stop_ids(module), "tiny"), f"tiny-{seed}")


def random_rollout(
    policy: TinyPolicy,
    prompts: Sequence[str] = PROMPTS[:3],
    samples: int = 2,
    max_length: int = 8,
    seed: int = 0,
    temperature: float = 1.0,
) -> Rollout:
    """`samples` random completions of each prompt, of many lengths; every second one ends with the stop token."""
    generator = torch.Generator().manual_seed(seed)
    special = {*policy.encoder.tokenizer.all_special_ids, *policy.stop_ids}
    words = [i for i in range(len(policy.encoder.tokenizer)) if i not in special]
    completions: list[tuple[int, ...]] = []
    finish: list[FinishReason] = []
    for row in range(len(prompts) * samples):
        stops = row % 2 == 0
        count = int(torch.randint(1, max_length, (), generator=generator)) if stops else max_length
        ids = [words[i] for i in torch.randint(len(words), (count,), generator=generator).tolist()]
        completions.append((*ids, policy.encoder.end_id) if stops else tuple(ids))
        finish.append("stop" if stops else "length")
    records = tuple(Prompt(prompt=text) for text in prompts for _ in range(samples))
    return Rollout(
        prompts=records,
        prompt_ids=tuple(tuple(policy.encode_prompt(r.prompt)) for r in records),
        completion_ids=tuple(completions),
        texts=tuple(policy.decode(c) for c in completions),
        finish=tuple(finish),
        group_B=torch.arange(len(prompts)).repeat_interleave(samples),
        temperature=temperature,
        tokenizer_id=policy.tokenizer_id,
    )
