"""Options of the `causal_lm` policy."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from alignkit.components import Config
from alignkit.recipe.model import Operational

# Sizes for a CPU; the numbers are transformers config fields of Llama.
PRESETS: dict[str, dict[str, Any]] = {
    "nano": {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 2},
    "tiny": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4},
    "small": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4},
}
COMMON: dict[str, Any] = {"max_position_embeddings": 512, "tie_word_embeddings": True}


class InitConfig(BaseModel):
    """A new model from a transformers config; further keys are fields of that config."""

    model_config = ConfigDict(extra="allow", frozen=True)
    preset: Literal["nano", "tiny", "small"] | None = Field(None, description="a size of our own for small machines")
    model_type: str = Field("llama", description="transformers model type")

    def fields(self) -> dict[str, Any]:
        """Config fields: the preset's, overridden by the keys given."""
        return {**(COMMON | PRESETS[self.preset] if self.preset else {}), **(self.model_extra or {})}


class TokenizerConfig(Config):
    """A byte-level BPE tokenizer trained for a new model."""

    train_on: str = Field(description="reference to a data step, for example @corpus")
    vocab_size: int = Field(1024, ge=260, description="entries, the 256 bytes and special tokens included")
    chat: bool = Field(False, description="add turn tokens and a ChatML template")
    max_records: int = Field(100_000, ge=1, description="records read for training, from the start of each part")


class LoRAConfig(Config):
    """Low-rank adapters (Hu et al. 2021) on a frozen model; what is saved is merged."""

    rank: int = Field(16, ge=1, description="rank of each addition")
    alpha: float = Field(32.0, gt=0, description="additions are scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the additions' input, in stages that train with dropout")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear",
        description="names of the layers that get one, or a regular expression; all-linear: all but the projection",
    )


class CausalLMConfig(Config):
    """A causal language model: from a folder or hub name (`path`), or new (`init` and `tokenizer`)."""

    path: str | None = Field(None, description="model folder, hub name or @step")
    init: InitConfig | None = Field(None, description="make a new model instead")
    tokenizer: TokenizerConfig | None = Field(None, description="train a tokenizer for the new model")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights")
    lora: LoRAConfig | None = Field(None, description="train low-rank adapters instead of the weights")
    gradient_checkpointing: Annotated[bool, Operational()] = Field(
        False, description="compute each layer again in the backward pass instead of keeping its activations"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model; off for good reasons")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.init is None):
            raise ValueError("give either path (an existing model) or init (a new one)")
        if (self.init is None) != (self.tokenizer is None):
            raise ValueError("init and tokenizer belong together: a new model gets a new tokenizer")
        if self.init is not None and self.lora is not None:
            raise ValueError("lora needs an existing model (path): the weights under it stay as they are")
        return self

    @property
    def max_positions(self) -> int | None:
        """Tokens that fit a new model, as far as the recipe says it."""
        said = self.init.fields().get("max_position_embeddings") if self.init is not None else None
        return said if isinstance(said, int) else None

    @property
    def new_model(self) -> dict[str, Any] | None:
        """Fields of the transformers config of a new model; its vocabulary may come out smaller than asked for."""
        if self.init is None or self.tokenizer is None:
            return None
        size = {"model_type": self.init.model_type, "vocab_size": self.tokenizer.vocab_size}
        return {**size, **self.init.fields()}

    @property
    def adapter_rank(self) -> int | None:
        """Of its low-rank adapters, for estimates of memory; None if all weights are trained."""
        return self.lora.rank if self.lora is not None else None
