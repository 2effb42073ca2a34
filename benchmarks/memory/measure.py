"""Peak memory of two updates of one setting, in a process of its own; prints JSON. Called by run.py.

python benchmarks/memory/measure.py --model FOLDER --warm-up TINY --stage ppo|sft --setting NAME --rows 8 --length 256

Two updates, because Adam's moments are there only from the end of the first one. Loading the model is left out.
"""

import argparse
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alignkit.batches import Rollout, Row
from alignkit.context import RunInfo, StepContext
from alignkit.device import choose_device
from alignkit.loop.logprobs import rollout_logprobs, rollout_values
from alignkit.manager import PluginManager
from alignkit.ops import choose_ops
from alignkit.protocols import Experience, Policy, RolloutStage
from alignkit.recipe import ComponentSpec, Recipe, StepSpec
from alignkit.records import Prompt
from alignkit.training.config import OptimizerConfig
from alignkit.training.optimizer import Optimizer
from alignkit.training.tokens import accumulate_token_loss

LORA: dict[str, Any] = {"lora": {"rank": 16, "alpha": 32}}
CHECKPOINTING: dict[str, Any] = {"gradient_checkpointing": True}
# Setting -> options of the policy, and whether the critic shares its trunk.
SETTINGS: dict[str, tuple[dict[str, Any], bool]] = {
    "full": ({}, False),
    "full_checkpointing": (CHECKPOINTING, False),
    "lora": (LORA, False),
    "lora_checkpointing": (LORA | CHECKPOINTING, False),
    "lora_checkpointing_shared": (LORA | CHECKPOINTING, True),
}
UPDATES = 2
MIB = 2**20


def make_context(device: torch.device) -> StepContext:
    """What components need when no run is around them."""
    manager = PluginManager()
    manager.load()
    return StepContext(
        manager=manager,
        recipe=Recipe(
            name="memory",
            policy=ComponentSpec(name="causal_lm", path="none"),
            steps=(StepSpec(id="one", step="train"),),
        ),
        run=RunInfo("memory", Path(), 0, 1, {}),
        device=device,
        ops=choose_ops(manager, "chunked", device),
        resolve_reference=Path,
        step_id="one",
    )


def ppo_update(policy: Policy, shared: bool, rows: int, length: int, context: StepContext) -> Callable[[], None]:
    """What one iteration does after sampling: three passes without gradient, then one minibatch of all rows."""
    reference = policy.reference()
    critic = policy.critic(None, shared=shared)
    one_batch = {"epochs": 1, "minibatches": 1, "micro_batch_tokens": rows * length}
    stage: RolloutStage = context.build("optimizer_stage", ComponentSpec(name="ppo", **one_batch))
    stage.start(policy, reference, critic, UPDATES, context)
    half = length // 2
    ids = torch.randint(3, 256, (rows, length)).tolist()
    rollout = Rollout(
        prompts=tuple(Prompt(prompt=str(b)) for b in range(rows)),
        prompt_ids=tuple(tuple(row[:half]) for row in ids),
        completion_ids=tuple(tuple(row[half:]) for row in ids),
        texts=("",) * rows,
        finish=("length",) * rows,
        group_B=torch.arange(rows),
        temperature=1.0,
        tokenizer_id=policy.tokenizer_id,
    )

    def update() -> None:
        logp_BT = rollout_logprobs(policy, rollout, context.ops, rows * length)
        ref_logp_BT = rollout_logprobs(reference, rollout, context.ops, rows * length)
        values_BT = rollout_values(critic, rollout, policy.pad_id, policy.device, rows * length)
        noise_BT = torch.randn(logp_BT.shape)
        mask_BT = rollout.mask_BT
        stage.update(
            Experience(rollout, mask_BT, logp_BT, ref_logp_BT, noise_BT, mask_BT, values_BT, values_BT + noise_BT)
        )

    return update


def sft_update(policy: Policy, rows: int, length: int, context: StepContext) -> Callable[[], None]:
    """One batch of maximum likelihood."""
    optimizer = Optimizer(policy.module.parameters(), OptimizerConfig(lr=1e-4), UPDATES)
    ids = torch.randint(3, 256, (rows, length)).tolist()
    data = [Row(row, [t >= length // 2 for t in range(length)]) for row in ids]

    def update() -> None:
        policy.module.train()
        accumulate_token_loss(policy, data, rows * length, context)
        optimizer.step()

    return update


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (peak since it was last set back) of this process, MiB. Linux."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def prepare(
    folder: Path, stage: str, setting: str, rows: int, length: int, context: StepContext
) -> tuple[Any, Callable[[], None]]:
    """The policy in `folder` and what does one update of it."""
    options, shared = SETTINGS[setting]
    policy = context.build("policy", ComponentSpec(name="causal_lm", path=str(folder), **options))
    if stage == "ppo":
        return policy, ppo_update(policy, shared, rows, length, context)
    return policy, sft_update(policy, rows, length, context)


def main() -> None:
    """Build, update, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--warm-up", type=Path, required=True, help="a tiny model")
    parser.add_argument("--stage", choices=["ppo", "sft"], required=True)
    parser.add_argument("--setting", choices=sorted(SETTINGS), required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = choose_device(arguments.device)
    context = make_context(device)
    # Updates of a tiny model first: everything that is imported or set up on the way belongs to the empty process.
    _, update = prepare(arguments.warm_up, arguments.stage, arguments.setting, 2, 16, context)
    update()
    del update
    gc.collect()
    empty = resident("VmRSS")
    policy, update = prepare(
        arguments.model, arguments.stage, arguments.setting, arguments.rows, arguments.length, context
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets VmHWM back to VmRSS
    for _ in range(UPDATES):
        update()
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() / MIB if cuda else resident("VmHWM") - empty
    figures = {
        "device": device.type,
        "parameters": sum(p.numel() for n, p in policy.module.named_parameters() if ".lora_" not in n),
        "trainable": sum(p.numel() for p in policy.module.parameters() if p.requires_grad),
        "peak_mib": round(peak, 1),
        "empty_process_mib": None if cuda else round(empty, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
