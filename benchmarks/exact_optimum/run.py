"""How close each estimator and optimizer stage comes to the KL-regularised optimum, which this world knows exactly.

    python benchmarks/exact_optimum/run.py [--quick] [--json FILE] [--plot FILE] [--table FILE] [--jobs N]

pi*(y | x) is proportional to pi_ref(y | x) exp(r(x, y) / beta). Every variant (variants.py) trains a real `causal_lm`
through the ordinary engine; then its exact J = E[r] - beta KL is compared with the optimum's by enumeration (world.py):
ratio = (J - J_ref) / (J* - J_ref), frontier_gap = (R*(KL) - R) / (R*(KL) - R_ref), R*(KL) the best reward at that KL.
The full run has betas whose optimum is 0.3, 1 and 3 nats away,
with three seeds for the settings that aim at it and one for the others; --quick one seed, 1 nat, fewer iterations, and
of the others the best known only.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from plot import draw, table
from variants import VARIANTS, Variant
from world import LENGTH, PROMPTS, World, log_probs, make_model

TARGET_KLS = (0.3, 1.0, 3.0)
ITERATIONS = 300  # of BATCH completions; twice as many of half the size where a batch is one update
QUICK_ITERATIONS = 200
QUICK_CONTRAST = "GRPO as published"
BATCH = 512
SAMPLES = 16
LR = 1e-3


def recipe(variant: Variant, beta: float, seed: int, folder: Path, name: str, iterations: int) -> dict[str, Any]:
    """The run as a recipe: prompts from a file, then `align`."""
    halves = 2 if variant.optimizer["minibatches"] == 1 else 1
    optimizer = {"lr": LR, "warmup": 0.1, "schedule": "linear", **variant.optimizer}
    return {
        "name": name,
        "seed": seed,
        "output": str(folder / "runs"),
        "policy": {"name": "causal_lm", "path": str(folder / "reference")},
        "steps": [
            {"id": "questions", "step": "data", "format": "prompts", "files": str(folder / "prompts.jsonl")},
            {
                "id": "aligned",
                "step": "align",
                "reward_source": {"name": "function", "path": "world:reward"},
                "advantage": variant.advantage,
                "optimizer_stage": optimizer,
                "prompts": "@questions",
                "sampling": {"max_length": LENGTH},
                "iterations": halves * iterations,
                "batch_size": variant.samples * BATCH // halves,
                "samples_per_prompt": SAMPLES,
                "kl": {"coef": beta, **variant.kl},
            },
        ],
    }


def run(variant: Variant, target: float, seed: int, folder: Path, iterations: int) -> dict[str, Any]:
    """Train one policy and measure it exactly."""
    import torch

    from alignkit.engine import run_recipe
    from alignkit.recipe import load_recipe

    torch.set_num_threads(1)
    logging.getLogger("alignkit").setLevel(logging.WARNING)
    world = World.of(folder / "reference")
    beta = world.beta_for(target)
    name = f"{VARIANTS.index(variant)}-{target:g}-{seed}"
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe(variant, beta, seed, folder, name, iterations)), encoding="utf-8")
    clock = time.perf_counter()
    run_recipe(load_recipe(str(path)), allow_code=frozenset({"world:reward"}))
    seconds = time.perf_counter() - clock
    policy = log_probs(next((folder / "runs" / name).glob("r1/*-aligned")) / "model")
    return {
        "variant": variant.name,
        "estimator": variant.advantage["name"],
        "optimizer": variant.optimizer["name"],
        "kl_estimator": variant.kl.get("estimator", "k1"),
        "kl_placement": variant.kl.get("placement", "reward"),
        "unbiased": variant.unbiased,
        "target_kl": target,
        "beta": beta,
        "seed": seed,
        "seconds": seconds,
        **world.figures(policy, beta),
    }


def write(rows: list[dict[str, Any]], iterations: int, file: Path) -> None:
    """The rows so far, with what they were made with."""
    from alignkit.engine.environment import environment

    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "settings": {"iterations": iterations, "batch_size": BATCH, "samples_per_prompt": SAMPLES, "lr": LR},
        "rows": rows,
    }
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run the grid, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and one beta")
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--plot", type=Path, help="where the picture goes (svg or png)")
    parser.add_argument("--table", type=Path, help="where the table goes (markdown)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at once")
    parser.add_argument("--only", help="variants whose name has this text")
    arguments = parser.parse_args()
    chosen = [v for v in VARIANTS if not arguments.only or arguments.only in v.name]
    targets, seeds, iterations = TARGET_KLS, (0, 1, 2), ITERATIONS
    if arguments.quick:
        targets, seeds, iterations = (1.0,), (0,), QUICK_ITERATIONS
        chosen = [v for v in chosen if v.unbiased or v.name.startswith(QUICK_CONTRAST)]
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        make_model(folder / "reference")
        (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
        with ProcessPoolExecutor(arguments.jobs) as pool:
            jobs = [(v, kl, seed) for v in chosen for kl in targets for seed in (seeds if v.unbiased else seeds[:1])]
            for future in [pool.submit(run, *job, folder, iterations) for job in jobs]:
                row = future.result()
                rows.append(row)
                if arguments.json:
                    write(rows, iterations, arguments.json)
                print(
                    f"{row['variant']:42} KL* {row['target_kl']:<4g} seed {row['seed']}  ratio {row['ratio']:.3f}  "
                    f"gap {row['frontier_gap']:.3f}  KL {row['kl']:.2f}  {row['seconds']:.0f} s",
                    flush=True,
                )
        world = World.of(folder / "reference")
    if arguments.plot:
        draw(world, rows, arguments.plot)
    if arguments.table:
        arguments.table.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
