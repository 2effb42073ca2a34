"""What one process of a training has, counted; prints JSON. Called by run.py, by itself or by torchrun.

python benchmarks/plan/measure.py flops --model FOLDER --stage ppo|sft --rows 4 --length 64
torchrun --nproc-per-node 2 benchmarks/plan/measure.py bytes --model FOLDER --rows 4 --length 64

flops: matrix products of an iteration or step, as torch.utils.flop_counter counts them. bytes: weights, gradients and
moments that this process holds when the optimizer steps.
"""

import argparse
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from alignkit.joining import joined
from alignkit.modeling.sharding import local, shard
from alignkit.ops import choose_ops
from alignkit.processes import gathered, is_first
from alignkit.recipe import ComponentSpec

MEMORY = Path(__file__).parents[1] / "memory" / "measure.py"


def memory_measure() -> Any:
    """The module that sets updates up to measure their memory."""
    spec = importlib.util.spec_from_file_location("memory_measure", MEMORY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forward_attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Of torch's fused attention on a CPU, which its counter does not know."""
    return sdpa_flop_count(query, key, value)


def backward_attention(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """The same for its backward pass."""
    return sdpa_backward_flop_count(grad, query, key, value)


def flops(model: Path, stage: str, rows: int, length: int) -> dict[str, Any]:
    """One update, with the eager ops: what a fused one does inside is hidden from the counter."""
    measure = memory_measure()
    context = measure.make_context(torch.device("cpu"))
    context = replace(context, ops=choose_ops(context.manager, "eager", context.device))
    _, update = measure.prepare(model, stage, "full", rows, length, context)
    aten = torch.ops.aten
    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: forward_attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: backward_attention,
        },
    )
    update()  # tries what the model allows, once
    with counter:
        update()
    return {"flops": counter.get_total_flops()}


def held(model: Path, rows: int, length: int) -> dict[str, Any]:
    """Bytes of every process."""
    from alignkit.training.config import OptimizerConfig
    from alignkit.training.optimizer import Optimizer
    from alignkit.training.tokens import accumulate_token_loss

    measure = memory_measure()
    context = measure.make_context(torch.device("cpu"))
    policy = context.build("policy", ComponentSpec(name="causal_lm", path=str(model)))
    shard(policy.module)
    optimizer = Optimizer(policy.module.parameters(), OptimizerConfig(lr=1e-4), 2)
    ids = torch.randint(3, 256, (rows, length), generator=torch.Generator().manual_seed(0)).tolist()
    data = [measure.Row(row, [t > 0 for t in range(length)]) for row in ids]
    for _ in range(2):
        accumulate_token_loss(policy, data, length, context)
        gradients = [p.grad for p in policy.module.parameters() if p.grad is not None]
        size = sum(local(t).nbytes for t in gradients)
        optimizer.step()
    size += sum(local(p.detach()).nbytes for p in policy.module.parameters())
    moments = optimizer.state(copy=False).values()
    size += sum(local(t).nbytes for t in moments if isinstance(t, torch.Tensor) and t.ndim)
    return {"bytes": [int(text) for text in gathered(str(size).encode())]}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["flops", "bytes"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--stage", choices=["ppo", "sft"], default="sft")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    arguments = parser.parse_args()
    with joined():
        if arguments.what == "flops":
            found = flops(arguments.model, arguments.stage, arguments.rows, arguments.length)
        else:
            found = held(arguments.model, arguments.rows, arguments.length)
        if is_first():
            print(json.dumps(found))


if __name__ == "__main__":
    main()
