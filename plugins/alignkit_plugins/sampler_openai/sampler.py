"""The sampler `openai`: texts of whatever model a server serves."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from alignkit.batches import Rollout
from alignkit.records import Prompt, Sampling
from alignkit.servers.access import api_key
from alignkit.servers.pace import Pace
from alignkit_plugins.sampler_openai.config import OpenAISamplerConfig
from alignkit_plugins.sampler_openai.session import Session
from alignkit_plugins.sampler_openai.wire import Drawn, asked_for, is_chat

if TYPE_CHECKING:
    from alignkit.protocols import Policy

logger = logging.getLogger("alignkit")


class OpenAISampler:
    """Satisfies `alignkit.protocols.Sampler` and `TextOnly`."""

    def __init__(self, config: OpenAISamplerConfig) -> None:
        """Raises UserError if the key's variable is empty."""
        self.config = config
        self.key = api_key(config.api_key_env)
        self.pace = Pace(config.requests_per_minute)
        self.where = f"{config.model or 'the model'} at {config.base_url}"
        # What is known once the server was asked.
        self.model = ""
        self.answers_as: str | None = None
        self.takes_n = config.n
        self._revision = ""
        self._told = False

    def drawn_from(self) -> str:
        """The model's name at the server, what the server says that name stands for, and the server's address."""
        if not self._revision:
            self.model, root = asyncio.run(Session(self).served())
            self._revision = f"{self.model}{f' ({root})' if root else ''} at {self.config.base_url}"
        return self._revision

    def rollout(self, policy: "Policy | None", prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> Rollout:
        """One completion per prompt.

        Raises UserError for what the server cannot be asked or refuses, Fault if it fails.
        """
        self.drawn_from()
        self._tell(prompts, sampling)
        rows: defaultdict[str, list[int]] = defaultdict(list)
        for row, prompt in enumerate(prompts):
            rows[prompt.id].append(row)
        drawn = asyncio.run(Session(self).draw(prompts, list(rows.values()), sampling, seed))
        self._warn(drawn, list(rows.values()), sampling)
        numbers = {id: group for group, id in enumerate(rows)}
        return Rollout(
            prompts=tuple(prompts),
            prompt_ids=((),) * len(prompts),
            completion_ids=((),) * len(prompts),
            texts=tuple(one.text for one in drawn),
            finish=tuple(one.finish for one in drawn),
            group_B=torch.tensor([numbers[prompt.id] for prompt in prompts]),
            temperature=sampling.temperature,
            tokenizer_id="",
            text_only=True,
        )

    def _tell(self, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        """Check every prompt before any is sent, and say once what is asked for."""
        chats = {is_chat(self.config, prompt) for prompt in prompts}
        fields = [asked_for(self.config, sampling, chat) for chat in sorted(chats)]
        if not self._told:
            asked = ", ".join(f"{k} {v}" for k, v in {**fields[0], **fields[-1], **self.config.request}.items())
            seeds = "a seed" if "seed" in self.config.takes else "no seed"
            words = "" if sampling.max_words is None else f"; texts are cut here after {sampling.max_words} words"
            logger.info("%s is asked for %s and %s%s", self._revision, asked, seeds, words)
        self._told = True

    def _warn(self, drawn: Sequence[Drawn], groups: Sequence[Sequence[int]], sampling: Sampling) -> None:
        empty = sum(not one.text for one in drawn)
        if empty:
            logger.warning("%s: %d of %d completions are empty texts", self._revision, empty, len(drawn))
        several = [rows for rows in groups if len(rows) > 1]
        if sampling.temperature > 0 and several and all(len({drawn[b].text for b in rows}) == 1 for rows in several):
            logger.warning(
                "%s: all completions of a prompt are equal, for each of %d prompts: it may not sample at all "
                "(transformers serve does so only with do_sample in the model's generation config), or give "
                "each the same seed (set n: false)",
                self._revision,
                len(several),
            )
