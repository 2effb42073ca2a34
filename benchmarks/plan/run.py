"""What `alignkit plan` computes beside what is measured: operations, memory of a process, peak memory.

python benchmarks/plan/run.py --json F

- operations of an SFT step and of a PPO iteration (without its sampling), as torch.utils.flop_counter counts them;
- bytes of weights, gradients and moments that one and two processes (gloo) hold;
- peaks of benchmarks/results/memory.json, measured by benchmarks/memory/run.py.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignkit.engine.environment import environment
from alignkit.plan.shape import ModelShape, shape_of
from alignkit.plan.steps import divided
from alignkit.plan.work import Held, Rows, forward_flops, training_flops
from alignkit.preflight.memory import activations, frozen, peak, trained

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
MODELS = ("1M", "24M")
ROWS, LENGTH = 4, 128
RANK = 16


def sizes() -> Any:
    """The models of the benchmark of memory."""
    spec = importlib.util.spec_from_file_location("memory_run", HERE.parent / "memory" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["memory_run"] = module
    spec.loader.exec_module(module)
    return module


def measured(*arguments: object, processes: int = 1) -> dict[str, Any]:
    """What measure.py prints, of one process or of several."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*start, str(HERE / "measure.py"), *map(str, arguments)]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=threads)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(what: str, model: str, computed: float, found: float) -> dict[str, Any]:
    """One comparison."""
    ratio = round(computed / found, 4)
    print(f"{what:<44} {model:>4}  computed {computed:.4g}  measured {found:.4g}  ratio {ratio}", flush=True)
    return {"what": what, "model": model, "computed": computed, "measured": found, "ratio": ratio}


def operations(name: str, folder: Path, shape: ModelShape) -> Iterator[dict[str, Any]]:
    """Half of each row is a prompt. The critic of PPO has no projection."""
    size = ("--model", folder, "--rows", ROWS, "--length", LENGTH)
    rows, values = Rows(ROWS, LENGTH, LENGTH // 2), Rows(ROWS, LENGTH, 0)
    held = Held(shape)
    computed = training_flops(held, rows)
    yield row("FLOP, SFT step", name, computed, measured("flops", "--stage", "sft", *size)["flops"])
    computed += 2 * forward_flops(shape, rows) + forward_flops(shape, values) + training_flops(held, values)
    yield row("FLOP, PPO iteration, a minibatch", name, computed, measured("flops", "--stage", "ppo", *size)["flops"])


def parts(name: str, folder: Path, shape: ModelShape) -> Iterator[dict[str, Any]]:
    """The part of the process that has most."""
    size = ("--model", folder, "--rows", ROWS, "--length", LENGTH)
    for processes in (1, 2):
        found = max(measured("bytes", *size, processes=processes)["bytes"])
        what = f"bytes of weights, gradients, moments, {processes} process{'es' * (processes > 1)}"
        yield row(what, name, divided(Held(shape, processes)).bytes, found)


def peaks(shapes: dict[str, ModelShape]) -> Iterator[dict[str, Any]]:
    """Of whole updates in one process."""
    known = json.loads((RESULTS / "memory.json").read_text(encoding="utf-8"))
    for case in known["rows"]:
        size, shape, setting = known["models"][case["model"]], shapes[case["model"]], case["setting"]
        rank = RANK if "lora" in setting else None
        kept = activations(shape, size["rows"] * size["length"], checkpointed="checkpointing" in setting)
        held = [trained("policy", shape, 4, rank)]
        if case["stage"] == "ppo":
            held += [frozen("reference", shape, 4)] if rank is None else []
            if "shared" not in setting:
                held.append(trained("critic", shape))
                kept = kept._replace(bytes=2 * kept.bytes)
        what = f"peak bytes, {case['stage']} {setting}"
        yield row(what, case["model"], peak([*held, kept]), case["peak_mib"] * 2**20)


def main() -> None:
    """Compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    models = sizes()
    shapes = {
        name: shape_of({"model_type": "llama", **models.COMMON, **size.config}) for name, size in models.SIZES.items()
    }
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in MODELS:
            folder = Path(temporary) / name
            models.write_model(models.SIZES[name], folder)
            found += [*operations(name, folder, shapes[name]), *parts(name, folder, shapes[name])]
    found += peaks(shapes)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "rows_and_length": [ROWS, LENGTH],
        "note": "computed by alignkit.plan / measured; peaks are those of memory.json",
        "rows": found,
    }
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
