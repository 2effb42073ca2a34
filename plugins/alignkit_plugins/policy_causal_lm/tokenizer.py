"""Trains a byte-level BPE tokenizer on a recipe's own data."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from alignkit.context import PARTS, BuildContext
from alignkit.data.store import RecordFile
from alignkit.errors import UserError
from alignkit.records import plain_text
from alignkit_plugins.policy_causal_lm.config import TokenizerConfig

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(config: TokenizerConfig, context: BuildContext, max_length: int) -> Any:
    """A `PreTrainedTokenizerFast` whose texts begin with <s>; the end is never added by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = [PAD, BOS, EOS, *([TURN_START, TURN_END] if config.chat else [])]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(config, context), trainer)
    if not config.chat:  # a chat template writes its own structure, without a start token
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=TURN_END if config.chat else EOS,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    if config.chat:
        fast.chat_template = CHATML
    return fast


def _texts(config: TokenizerConfig, context: BuildContext) -> Iterator[str]:
    found = False
    for part, model in PARTS.items():
        named = config.train_on if "." in config.train_on else f"{config.train_on}.{part}"
        try:
            path = context.resolve(named)
        except UserError:
            continue
        if not path.is_file() or path.stem != part:
            continue
        found = True
        for record in islice(RecordFile(path, model), config.max_records):
            fields = [
                getattr(record, name)
                for name in ("text", "prompt", "completion", "chosen", "rejected")
                if hasattr(record, name)
            ]
            yield from (plain_text(field) for field in fields if field)
    if not found:
        raise UserError(f"{config.train_on} has no text to train a tokenizer on", where="policy.tokenizer.train_on")
