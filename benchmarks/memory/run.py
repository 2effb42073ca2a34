"""Peak memory of a PPO and an SFT update: full fine-tuning, LoRA, gradient checkpointing, a shared critic.

python benchmarks/memory/run.py [--quick] [--device cpu] --json F

Models are random Llamas in float32; each setting runs in a process of its own (measure.py). On a CPU the figure is the
high-water mark of resident memory during two updates less that of the empty process; on a GPU it is what torch had
allocated at most. Log-probs are taken by the kernel component `chunked`, so that logits do not drown the rest.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from alignkit.engine.environment import environment


class Size(NamedTuple):
    """Fields of a Llama config, and the batch."""

    config: dict[str, int]
    rows: int
    length: int


COMMON: dict[str, Any] = {"max_position_embeddings": 512, "tie_word_embeddings": True, "eos_token_id": 257}
SIZES = {
    "1M": Size({"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4,
                "vocab_size": 1024}, 4, 128),
    "24M": Size({"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8,
                 "vocab_size": 8192}, 4, 256),
    "98M": Size({"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
                 "vocab_size": 16384}, 2, 256),
}  # fmt: skip
PPO = ("full", "full_checkpointing", "lora", "lora_checkpointing", "lora_checkpointing_shared")
SFT = ("full", "full_checkpointing", "lora", "lora_checkpointing")


def write_model(size: Size, folder: Path) -> None:
    """A random model with a tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **COMMON, **size.config)
    config.eos_token_id, config.pad_token_id = fast.eos_token_id, fast.pad_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def measure(folder: Path, tiny: Path, size: Size, stage: str, setting: str, device: str) -> dict[str, Any]:
    """The figures that measure.py prints."""
    command = [sys.executable, str(Path(__file__).with_name("measure.py")), "--model", str(folder)]
    command += ["--warm-up", str(tiny)]
    command += ["--stage", stage, "--setting", setting, "--rows", str(size.rows), "--length", str(size.length)]
    # Without this, glibc keeps freed tensors for later, and the mark shows its habits instead of what was needed.
    environ = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([*command, "--device", device], check=True, stdout=subprocess.PIPE, text=True, env=environ)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure all settings and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest model only")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temp:
        tiny = Path(temp) / "tiny"
        write_model(SIZES["1M"], tiny)
        for name in ["1M"] if arguments.quick else ["24M", "98M"]:
            size = SIZES[name]
            folder = Path(temp) / name
            write_model(size, folder)
            for stage, setting in [("ppo", s) for s in PPO] + [("sft", s) for s in SFT]:
                figures = measure(folder, tiny, size, stage, setting, arguments.device)
                rows.append({"model": name, "stage": stage, "setting": setting, **figures})
                print(json.dumps(rows[-1]), flush=True)
    batches = {name: {"rows": size.rows, "length": size.length, **size.config} for name, size in SIZES.items()}
    used = {row["model"] for row in rows}
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "models": {name: batch for name, batch in batches.items() if name in used},
        "rows": rows,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
