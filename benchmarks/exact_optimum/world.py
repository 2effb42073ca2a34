"""A world small enough to enumerate: every completion, its reward, its probability, and the best policy there is.

Four prompts, completions of at most five tokens over four (one of them the end token): 364 completions each. The
reward is a table of our own making, drawn from a fixed seed: a value for each token at each place and for each pair of
neighbours, times a scale that differs by prompt. The function `reward` is what a recipe's reward source calls.

Prompts have one length and begin with `?`. Otherwise the model could not express the optimum: a prompt and a start of
a completion could be another prompt, and without a word in front a model with rotary positions cannot tell `a a` from
`a` (attention over equal tokens is their common value, however many there are).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

END = "</s>"
START = "?"
LETTERS = ("a", "b")
PROMPTS = tuple(f"{START} {x} {y}" for x in LETTERS for y in LETTERS)
SCALES = (0.5, 1.0, 2.0, 4.0)
WORDS = (END, START, *LETTERS)
LENGTH = 5


def completions() -> list[tuple[int, ...]]:
    """Token ids of all completions: up to LENGTH tokens, nothing behind the end token."""
    found: list[tuple[int, ...]] = []
    for n in range(1, LENGTH + 1):
        for body in itertools.product(range(1, len(WORDS)), repeat=n - 1):
            found.append((*body, 0))
    found += list(itertools.product(range(1, len(WORDS)), repeat=LENGTH))
    return found


def tables() -> tuple[np.ndarray, np.ndarray]:
    """Values of a token at a place [prompts, LENGTH, words] and of neighbours [prompts, words, words]."""
    rng = np.random.default_rng(20)
    return rng.normal(size=(len(PROMPTS), LENGTH, len(WORDS))), rng.normal(size=(len(PROMPTS), len(WORDS), len(WORDS)))


PLACE, PAIR = tables()


def reward_of(prompt: int, ids: Sequence[int]) -> float:
    """The reward of one completion."""
    value = sum(PLACE[prompt, t, i] for t, i in enumerate(ids))
    value += sum(PAIR[prompt, a, b] for a, b in itertools.pairwise(ids))
    return float(SCALES[prompt] * value / LENGTH)


def reward(prompts: list[str], texts: list[str]) -> list[float]:
    """Called by the run: texts have no end token, so it is put back where there is room for it."""
    scores = []
    for prompt, text in zip(prompts, texts, strict=True):
        ids = [WORDS.index(w) for w in text.split()]
        scores.append(reward_of(PROMPTS.index(prompt), ids if len(ids) == LENGTH else [*ids, 0]))
    return scores


def make_model(folder: Path) -> None:
    """A small Llama with a word-level tokenizer. Its weights are wide enough that the reference is not uniform."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = 0
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def log_probs(folder: Path) -> np.ndarray:
    """log pi(y | x) of every completion by transformers' own forward pass in float64, [prompts, completions]."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    every = completions()
    out = np.zeros((len(PROMPTS), len(every)))
    for p in range(len(PROMPTS)):
        prompt = [WORDS.index(w) for w in PROMPTS[p].split()]
        for n in range(1, LENGTH + 1):
            rows = [k for k, ids in enumerate(every) if len(ids) == n]
            ids = torch.tensor([[*prompt, *every[k]] for k in rows])
            with torch.no_grad():
                logp = torch.log_softmax(model(ids).logits[:, len(prompt) - 1 : -1], -1)
                logp = logp.gather(-1, ids[:, len(prompt) :, None])
            out[p, rows] = logp.squeeze(-1).sum(-1).numpy()
    assert np.allclose(np.exp(out).sum(-1), 1)
    return out


@dataclass(frozen=True)
class World:
    """Rewards and the reference's log-probs, [prompts, completions] each."""

    rewards: np.ndarray
    reference: np.ndarray

    @classmethod
    def of(cls, folder: Path) -> "World":
        """The world whose reference is the model in `folder`."""
        every = completions()
        rewards = np.array([[reward_of(p, ids) for ids in every] for p in range(len(PROMPTS))])
        return cls(rewards, log_probs(folder))

    def optimum(self, beta: float) -> np.ndarray:
        """log pi*(y | x) = log pi_ref + r / beta - log Z."""
        tilted = self.reference + self.rewards / beta
        top = tilted.max(-1, keepdims=True)
        return tilted - top - np.log(np.exp(tilted - top).sum(-1, keepdims=True))

    def reward_and_kl(self, policy: np.ndarray) -> tuple[float, float]:
        """E[r] and KL(pi || pi_ref) of a policy's log-probs, exact, averaged over prompts."""
        p = np.exp(policy)
        return float((p * self.rewards).sum(-1).mean()), float((p * (policy - self.reference)).sum(-1).mean())

    def objective(self, policy: np.ndarray, beta: float) -> float:
        """J = E[r] - beta KL."""
        r, kl = self.reward_and_kl(policy)
        return r - beta * kl

    def beta_for(self, kl: float) -> float:
        """The beta whose optimum has this KL (nats, mean over prompts), by bisection."""
        low, high = 1e-3, 1e3
        for _ in range(200):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.reward_and_kl(self.optimum(middle))[1] > kl else (low, middle)
        return (low * high) ** 0.5

    def figures(self, policy: np.ndarray, beta: float) -> dict[str, float]:
        """How much of the possible gain was reached, and how far below the frontier at its own KL it is."""
        start = self.objective(self.reference, beta)
        best = self.objective(self.optimum(beta), beta)
        r, kl = self.reward_and_kl(policy)
        frontier = self.reward_and_kl(self.optimum(self.beta_for(kl)))[0]
        r_ref = self.reward_and_kl(self.reference)[0]
        return {
            "ratio": (self.objective(policy, beta) - start) / (best - start),
            "frontier_gap": (frontier - r) / (frontier - r_ref),
            "reward": r,
            "kl": kl,
        }
