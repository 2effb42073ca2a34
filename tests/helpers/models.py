"""Tiny Llama and GPT-2 policies and tokenizers, made in memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alignkit.batches import Row, TokenBatch
from alignkit.modeling import folders
from alignkit.modeling.encoding import TextEncoder
from alignkit.modeling.scorer import SequenceScorer
from alignkit.testing.tiny import BOS, EOS, PAD, SIZE, tiny_tokenizer
from alignkit_plugins.policy_causal_lm.policy import CausalLM
from alignkit_plugins.policy_causal_lm.tokenizer import CHATML

EXTRA, TURN_START, TURN_END = "<stop>", "<|im_start|>", "<|im_end|>"
SIZES: dict[str, dict[str, Any]] = {
    "llama": SIZE,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}


def make_tokenizer(chat: bool = False, pad: str | None = PAD, template: str = CHATML) -> Any:
    """Byte-level BPE of 300 entries. `pad` may be None or EOS. With `chat`: a template and no start token."""
    return tiny_tokenizer(chat, (PAD, BOS, EOS, EXTRA, TURN_START, TURN_END), pad, template)


def make_policy(
    kind: str = "llama",
    tokenizer: Any = None,
    seed: int = 0,
    dropout: float = 0.0,
    stop_ids: Sequence[int] = (),
    spread: float = 0.3,
) -> CausalLM:
    """A random policy. `spread` is the standard deviation of its weights: logits well apart make tests sharp."""
    tokenizer = tokenizer if tokenizer is not None else make_tokenizer()
    extra: dict[str, Any] = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    config = AutoConfig.for_model(
        kind,
        **SIZES[kind],
        **(extra if kind == "gpt2" else {"attention_dropout": dropout}),
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, *stop_ids],
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=spread,
    )
    torch.manual_seed(seed)
    module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in module.parameters():  # transformers sets biases to zero, norms to one: hides mistakes
            if parameter.ndim < 2:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return CausalLM(module, TextEncoder(tokenizer, folders.stop_ids(module), "test"), f"test-{seed}")


def make_scorer(folder: Path, kind: str = "llama", tokenizer: Any = None, seed: int = 3) -> SequenceScorer:
    """A reward model that starts from a random policy, saved and loaded as the stage does it."""
    make_policy(kind, tokenizer, seed).save(folder)
    scorer = SequenceScorer.load(str(folder), torch.device("cpu"), new_head=True)
    scorer.init_head(torch.Generator().manual_seed(seed))
    return scorer


def random_rows(vocabulary: int, lengths: Sequence[int], seed: int = 0, prompt: int = 2) -> list[Row]:
    """Rows of random tokens; everything after the first `prompt` tokens is a target."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n in lengths:
        ids = torch.randint(6, vocabulary, (n,), generator=generator).tolist()
        rows.append(Row(ids, [t >= prompt for t in range(n)]))
    return rows


def plain_logps(policy: CausalLM, ids: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    """log p of tokens 1.. of one unpadded row from the model's own logits, in float64, [T - 1]."""
    policy.module.eval()
    with torch.no_grad():
        logits_TV = policy.module(torch.tensor([list(ids)])).logits[0].double() / temperature
    return torch.log_softmax(logits_TV[:-1], -1).gather(-1, torch.tensor(ids)[1:, None]).squeeze(-1)


def gradients(module: torch.nn.Module, backward: Callable[[], object]) -> dict[str, torch.Tensor]:
    """All parameter gradients that `backward` leaves; the module's gradients are cleared before and after."""
    module.zero_grad(set_to_none=True)
    backward()
    found = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    assert found
    return found


def assert_same_gradients(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 2e-5) -> None:
    """Equal names; the largest difference of each is below `tolerance` of the largest gradient of all."""
    assert a.keys() == b.keys()
    scale = max(float(g.abs().max()) for g in a.values())
    assert scale > 0
    for name in a:
        assert float((a[name] - b[name]).abs().max()) <= tolerance * scale, name


def batch_of(policy: CausalLM, rows: Sequence[Row]) -> TokenBatch:
    """Rows as a batch with the policy's pad id."""
    return TokenBatch.from_rows(rows, policy.pad_id)
