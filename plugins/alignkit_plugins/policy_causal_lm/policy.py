"""The `causal_lm` policy: a transformers model seen through hidden states and its vocabulary projection."""

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignkit.batches import Head, TokenBatch
from alignkit.code import require_allowed
from alignkit.context import BuildContext
from alignkit.errors import UserError, did_you_mean
from alignkit.modeling import folders
from alignkit.modeling.backbone import decoder_layers, hidden_states
from alignkit.modeling.encoding import TextEncoder
from alignkit.modeling.flat import padding_free
from alignkit.modeling.scorer import SequenceScorer
from alignkit.modeling.sharding import may_shard
from alignkit.ops.linear_logprob import project
from alignkit.records import Content
from alignkit_plugins.policy_causal_lm import lora
from alignkit_plugins.policy_causal_lm.adapter_off import AdapterOff
from alignkit_plugins.policy_causal_lm.config import CausalLMConfig, InitConfig
from alignkit_plugins.policy_causal_lm.critic import SharedCritic, classifier
from alignkit_plugins.policy_causal_lm.tokenizer import train_tokenizer


class CausalLM:
    """Satisfies `alignkit.protocols.Policy`. `module` is the transformers model, any LoRA layers inside it."""

    def __init__(self, module: Any, encoder: TextEncoder, revision: str, gradient_checkpointing: bool = False) -> None:
        self.module = module
        self.encoder = encoder
        self.revision = revision
        self.gradient_checkpointing = gradient_checkpointing
        self.pad_id = encoder.pad_id
        self.tokenizer_id = encoder.tokenizer_id
        self.stop_ids = encoder.stop_ids
        may_shard(module)
        self.max_positions: int | None = getattr(module.config, "max_position_embeddings", None)
        self._check_head()

    @property
    def has_chat_template(self) -> bool:
        """Whether prompts can be conversations."""
        return bool(getattr(self.encoder.tokenizer, "chat_template", None))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.module.device)

    @property
    def encoding_id(self) -> str | None:
        """See `TextEncoder.identity`."""
        return self.encoder.identity

    def encode_prompt(self, prompt: Content) -> list[int]:
        """See `TextEncoder.prompt`."""
        return self.encoder.prompt(prompt)

    def encode_completion(self, prompt: Content, completion: Content) -> list[int]:
        """See `TextEncoder.completion`."""
        return self.encoder.completion(prompt, completion)

    def decode(self, ids: Sequence[int]) -> str:
        """See `TextEncoder.decode`."""
        return self.encoder.decode(ids)

    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        """Hidden states before each target token [N, H], and the projection."""
        return batch.select(hidden_states(self.module, batch, self.gradient_checkpointing)), self.head

    @property
    def head(self) -> Head:
        """The model's vocabulary projection with what its config does to logits."""
        output = self.module.get_output_embeddings()
        config = self.module.config
        scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere multiplies
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)  # Granite divides
        return Head(output.weight, output.bias, getattr(config, "final_logit_softcapping", None), scale)

    def reference(self) -> "CausalLM":
        """A frozen view of the policy as it is now: the module with its adapter off, or a copy if it has none.

        An adapter that has been trained already is part of the policy as it is now, and is copied with the rest.
        """
        if isinstance(self.module, AdapterOff):
            return self
        view = copy.copy(self)
        view.gradient_checkpointing = False
        if lora.lora_layers(self.module) and lora.is_untrained(self.module):
            view.module = AdapterOff(self.module)
        else:
            view.module = copy.deepcopy(self.module).eval().requires_grad_(False)
        return view

    def critic(
        self, init: str | Path | None, keep_head: bool = False, shared: bool = False
    ) -> SequenceScorer | SharedCritic:
        """A critic: a model that starts as this policy's copy or from the folder `init`, or a head on the trunk.

        The head of `init` can be kept, else it starts at zero. A model of its own is trained in full, LoRA or not.
        """
        if shared and init is not None:
            raise UserError(
                "a critic that shares the policy's trunk has no first model of its own",
                where=init,
                hint="leave critic_init out, or use critic: separate",
            )
        if shared:
            return SharedCritic(self)
        if init is None:
            inner, merge = self._weights()
            backbone = lora.plain_state(inner.base_model, merge)
            scorer: SequenceScorer = classifier(inner.config, backbone, self.encoder, self.device)
        else:
            scorer = SequenceScorer.load(str(init), self.device, new_head=not keep_head)
            if scorer.encoder.tokenizer_id != self.tokenizer_id:
                raise UserError(
                    "the critic's first model has another tokenizer than the policy, so it cannot read its ids",
                    where=init,
                    hint="leave critic_init out, or name a reward model trained from this policy",
                )
            if not keep_head:
                scorer.init_head(None)
        scorer.gradient_checkpointing = self.gradient_checkpointing
        return scorer

    def save(self, folder: Path) -> None:
        """Write a folder that transformers and vLLM load: adapters are merged, and beside that alone in `adapter/`."""
        inner, merge = self._weights()
        if not lora.lora_layers(inner):
            folders.save(inner, self.encoder.tokenizer, folder)
            return
        beside = functools.partial(_save_adapter_in, inner) if merge else None
        folders.save(inner, self.encoder.tokenizer, folder, lora.plain_state(inner, merge), beside)

    def _weights(self) -> tuple[Any, bool]:
        """The transformers model, and whether its adapters (if any) count."""
        viewed = isinstance(self.module, AdapterOff)
        return (self.module.inner if viewed else self.module), not viewed

    @torch.no_grad()
    def _check_head(self) -> None:
        """Hidden state times projection must be the model's own logits, or every log-prob would be wrong."""
        self.module.eval()
        # The same precision and the same products on both sides: only the head is in question.
        with torch.autocast(self.device.type, enabled=False), padding_free(False):
            self._compare_logits()

    def _compare_logits(self) -> None:
        ids = torch.tensor([[self.encoder.end_id, 0, 1, 2]], device=self.device)
        own = self.module(ids).logits[0, :-1].float()
        batch = TokenBatch(
            ids,
            ids >= 0,
            torch.tensor([[False, True, True, True]], device=self.device),
            torch.arange(4, device=self.device)[None],
        )
        h_NH, head = self.hidden(batch)
        if not torch.allclose(project(h_NH, head).float(), own, rtol=1e-2, atol=1e-2):
            raise UserError(
                f"{type(self.module).__name__} computes logits in a way that is not known here",
                where=self.encoder.name,
                hint="this architecture needs its own policy plugin",
            )


def _save_adapter_in(module: Any, folder: Path) -> None:
    lora.save_adapter(module, folder / "adapter")


def build_policy(config: CausalLMConfig, context: BuildContext) -> CausalLM:
    """Load the model at `path`, or make a new one with a new tokenizer."""
    from transformers import AutoModelForCausalLM

    if config.init is not None:
        return _new(config, context)
    assert config.path is not None
    if config.trust_remote_code:
        require_allowed(config.path, context.allow_code, "policy.trust_remote_code")
    path = str(context.resolve(config.path)) if config.path.startswith("@") else config.path
    module = folders.load_model(
        AutoModelForCausalLM,
        path,
        dtype=getattr(torch, config.dtype),
        trust_remote_code=config.trust_remote_code,
    )
    encoder = folders.load_encoder(path, module, config.trust_remote_code)
    if config.lora is not None:
        lora.inject(module, config.lora, context.seed, path)
    return _policy(config, module, encoder, context, folders.revision(path))


def _policy(
    config: CausalLMConfig, module: Any, encoder: TextEncoder, context: BuildContext, revision: str
) -> CausalLM:
    if config.gradient_checkpointing and not decoder_layers(module):
        raise UserError(
            f"{type(module).__name__} has no layers that can be computed again",
            where="policy.gradient_checkpointing",
            hint="leave it out",
        )
    return CausalLM(module.to(context.device), encoder, revision, config.gradient_checkpointing)


def _new(config: CausalLMConfig, context: BuildContext) -> CausalLM:
    from transformers import AutoModelForCausalLM

    assert config.init is not None
    assert config.tokenizer is not None
    model_config = _model_config(config.init)
    tokenizer = train_tokenizer(config.tokenizer, context, model_config.max_position_embeddings)
    model_config.vocab_size = len(tokenizer)
    model_config.bos_token_id = tokenizer.bos_token_id
    model_config.eos_token_id = tokenizer.eos_token_id
    model_config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(context.seed)
    module = AutoModelForCausalLM.from_config(model_config, dtype=getattr(torch, config.dtype))
    # transformers fills the generation config from class defaults otherwise.
    module.generation_config.eos_token_id = tokenizer.eos_token_id
    module.generation_config.bos_token_id = tokenizer.bos_token_id
    module.generation_config.pad_token_id = tokenizer.pad_token_id
    encoder = TextEncoder(tokenizer, folders.stop_ids(module), "the new tokenizer")
    return _policy(config, module, encoder, context, f"new-{context.seed}")


def _model_config(init: InitConfig) -> Any:
    from transformers import AutoConfig

    try:
        default = AutoConfig.for_model(init.model_type)
    except ValueError:
        raise UserError(f"transformers has no model type {init.model_type!r}", where="policy.init.model_type") from None
    known = [k for k in default.to_dict() if not k.startswith("_")]
    for key in init.fields():
        if not hasattr(default, key):
            raise UserError(
                f"the config of {init.model_type} has no field {key!r}{did_you_mean(key, known)}",
                where=f"policy.init.{key}",
            )
    return AutoConfig.for_model(init.model_type, **init.fields())
