"""What the suites of both sorts of reward source share: rollouts and tasks made of plain texts."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel

from alignkit.batches import Rollout
from alignkit.components import Kind
from alignkit.context import StepContext
from alignkit.manager import PluginManager, Registered
from alignkit.modeling.encoding import TextEncoder
from alignkit.records import Candidate, Content, FinishReason, Message, Prompt, Sampling, Task, content_id
from alignkit.testing.context import make_context
from alignkit.testing.contract import ComponentContract
from alignkit.testing.tiny import tiny_tokenizer

PROMPTS = ("the quiet film", "this thriller about two brothers")
COMPLETIONS = (
    " won me over with honest acting, and I recommend it to families.",
    " is long and dull.",
    " has a haunting score and a warm ending, so see it before it leaves the cinema!",
)
CONVERSATION: tuple[Message, ...] = (
    Message(role="user", content="Is the film any good?"),
    Message(role="assistant", content="Which one?"),
    Message(role="user", content="The quiet one."),
)


class RewardSourceContract(ComponentContract):
    """Base of `ScoresContract` and `AnnotatesContract`; it has no checks of its own."""

    kind: ClassVar[Kind] = "reward_source"
    prompts: ClassVar[Sequence[Content]] = PROMPTS
    """Prompts of the checks. Give your own if the source needs a certain form of prompt."""
    completions: ClassVar[Sequence[str]] = COMPLETIONS
    """At least three completions that the source tells apart."""
    longest: ClassVar[int] = 2_000
    """Characters of the longest text in the checks. Lower it for a source that refuses longer ones, and says so."""
    tolerance: ClassVar[float] = 1e-4
    """How far two answers may differ that should be the same (padding changes the last bits of a model's output)."""

    @pytest.fixture
    def context(self, tmp_path: Path, manager: PluginManager) -> StepContext:
        """What it is built with."""
        folder = tmp_path / "step"
        folder.mkdir()
        return self.context_in(folder, manager)

    @pytest.fixture
    def rebuild(
        self, registered: Registered, config: BaseModel, manager: PluginManager, tmp_path: Path
    ) -> Callable[..., Any]:
        """Builds the component with the same options in a folder of its own; takes `seed`."""
        count = 0

        def build(seed: int = 0) -> Any:
            nonlocal count
            count += 1
            folder = tmp_path / f"again-{count}"
            folder.mkdir()
            return registered.build(config, self.context_in(folder, manager, seed))

        return build

    def context_in(self, folder: Path, manager: PluginManager, seed: int = 0) -> StepContext:
        """The context of one build, in which the code that `options` name may run."""
        context = make_context(folder, seed=seed, manager=manager, device=self.device)
        context.allow_code = self.allowed(self.options)
        return context


@cache
def encoder() -> TextEncoder:
    """The tokenizer of all rollouts and tasks here."""
    return TextEncoder(tiny_tokenizer(), frozenset(), "tiny")


@cache
def _chat_encoder() -> TextEncoder:
    return TextEncoder(tiny_tokenizer(chat=True), frozenset(), "tiny chat")


def rollout_of(
    prompts: Sequence[Content], completions: Sequence[str], finish: Sequence[FinishReason] | None = None
) -> Rollout:
    """A rollout of these texts; completion n belongs to prompt n, beginning again when they run out.

    Prompts that are conversations are encoded with a tokenizer that has a chat template.
    """
    finish = finish or ["stop"] * len(completions)
    records = [Prompt(prompt=prompts[n % len(prompts)]) for n in range(len(completions))]
    own = encoder() if all(isinstance(p, str) for p in prompts) else _chat_encoder()
    ids = [
        (*own.text(text), own.closing_id(record.prompt)) if why == "stop" else tuple(own.text(text))
        for record, text, why in zip(records, completions, finish, strict=True)
    ]
    lengths = torch.tensor([len(one) for one in ids])
    mask_BT = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    order = {id: n for n, id in enumerate(dict.fromkeys(record.id for record in records))}
    return Rollout(
        prompts=tuple(records),
        prompt_ids=tuple(tuple(own.prompt(record.prompt)) for record in records),
        completion_ids=tuple(ids),
        texts=tuple(completions),
        finish=tuple(finish),
        group_B=torch.tensor([order[record.id] for record in records]),
        temperature=1.0,
        tokenizer_id=own.tokenizer_id,
        sampler_logp_BT=-1.5 * mask_BT,
    )


def task_of(prompt: Content, *completions: str, overlap: int = 1, name: str = "") -> Task:
    """A task whose candidates say these texts; ids do not depend on the order of candidates.

    `name` makes another task of the same texts.
    """
    own = encoder() if isinstance(prompt, str) else _chat_encoder()
    seen: dict[str, int] = {}
    candidates = []
    for text in completions:
        seen[text] = seen.get(text, 0) + 1
        candidates.append(
            Candidate(
                id=content_id("candidate", prompt, text, str(seen[text]), name),
                prompt_id=content_id(prompt),
                prompt=prompt,
                completion=text,
                policy_revision="tiny",
                sampling=Sampling(),
                seed=0,
                prompt_ids=tuple(own.prompt(prompt)),
                completion_ids=(*own.text(text), own.closing_id(prompt)),
                finish_reason="stop",
            )
        )
    id = content_id("task", prompt, *sorted(completions), name)
    return Task(id=id, prompt=prompt, candidates=tuple(candidates), overlap=overlap)
