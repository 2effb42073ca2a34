"""LoRA (Hu et al. 2021): the matrices of a frozen model get trainable low-rank additions, W + (alpha / rank) B A.

The layers come from peft and are put into the transformers model itself, without peft's wrapper around it:
`base_model`, the vocabulary projection and the config stay where everything else looks for them.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.errors import UserError
from alignkit_plugins.policy_causal_lm.config import LoRAConfig

ADAPTER = "default"  # peft's name for the only adapter


def inject(module: Any, config: LoRAConfig, seed: int, base: str) -> None:
    """Put a new adapter on `module`: all else is frozen, the function stays what it is (B starts at zero).

    Adapters are float32 whatever the base is: a bfloat16 weight would swallow most updates.
    """
    import peft

    options = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules if isinstance(config.target_modules, str) else [*config.target_modules],
        fan_in_fan_out=_has_conv1d(module),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(options, module, ADAPTER)
        except ValueError as error:  # no module has such a name, or none can have an adapter
            raise UserError(f"cannot add LoRA: {error}", where="policy.lora.target_modules") from None
    _refuse_projection(module)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _has_conv1d(module: nn.Module) -> bool:
    """GPT-2 stores its matrices transposed; peft warns unless told."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(m, Conv1D) for m in module.modules())


def _refuse_projection(module: Any) -> None:
    """Losses read the projection's matrix, not its layer: an adapter there would never be seen."""
    output, embedding = module.get_output_embeddings(), module.get_input_embeddings()
    tied = getattr(output, "weight", None) is getattr(embedding, "weight", None)
    named = dict(lora_layers(module)).values()
    if any(layer is output or (tied and layer is embedding) for layer in named):
        raise UserError(
            "LoRA on the vocabulary projection is not possible",
            where="policy.lora.target_modules",
            hint='leave it and embeddings tied to it out, or use target_modules: "all-linear", which does',
        )


def lora_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """Names and layers that carry an adapter; empty for a plain model."""
    from peft.tuners.lora import LoraLayer

    return [(name, m) for name, m in module.named_modules() if isinstance(m, LoraLayer)]


def is_untrained(module: nn.Module) -> bool:
    """Whether the adapter adds exactly nothing yet: in each layer one of the two factors is zero."""
    for _, layer in lora_layers(module):
        factors = [p for name, p in layer.named_parameters() if name.startswith("lora_")]
        if all(bool(p.any()) for p in factors):
            return False
    return True


@torch.no_grad()
def plain_state(module: nn.Module, merge: bool = True) -> dict[str, Tensor]:
    """The weights of the model without adapter layers, by their plain names; with `merge` W + (alpha / rank) B A.

    Made beside the model, which is left bit for bit as it is (adding and subtracting in place would round).
    """
    layers = lora_layers(module)
    state = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in module.state_dict().items()
        if not (layers and ".lora_" in name)
    }
    for name, layer in layers if merge else []:
        weight = layer.get_base_layer().weight
        delta = layer.get_delta_weight(ADAPTER).float()
        state[f"{name}.weight"] = (weight.float() + delta).to(weight.dtype)
    return state


def save_adapter(module: Any, folder: Path) -> None:
    """The adapter alone as `peft.PeftModel.from_pretrained` reads it. It belongs on the weights from before merging."""
    import peft
    from safetensors.torch import save_file

    weights = peft.get_peft_model_state_dict(module, adapter_name=ADAPTER, save_embedding_layers=False)
    folder.mkdir()
    tensors = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    module.peft_config[ADAPTER].save_pretrained(folder)
