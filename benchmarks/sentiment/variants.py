"""Other ways to the same goal, on the models that `run.py` left: advantage estimators without a critic, and DPO.

    python benchmarks/sentiment/variants.py --data FOLDER --runs FOLDER [--seeds 0 1 2] [--only NAME] --json F

Every variant is recipes/sentiment.yaml with its last training step exchanged; base model, SFT policy and reward model
are taken over from FOLDER/seedN. Measured as in run.py; `seconds` are the exchanged step's own, `samples` what it drew
from the policy, `pairs` the preferences it read.
"""

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from judge import CriticsJudge
from run import SAMPLING, evaluate

from alignkit.engine.environment import environment

RECIPE = Path(__file__).parents[2] / "recipes/sentiment.yaml"
# Without a critic the entropy bonus of the recipe costs more KL than it is worth; chosen on the validation prompts.
NO_CRITIC = {"coef": 0.18, "entropy_coef": 0.01}
ADVANTAGES: dict[str, dict[str, Any]] = {
    "gae": {},
    "grpo": {"advantage": {"name": "grpo"}, "samples_per_prompt": 4},
    "rloo": {"advantage": {"name": "rloo"}, "samples_per_prompt": 4},
    "reinforce_pp": {"advantage": {"name": "reinforce_pp"}},
}
DPO: dict[str, Any] = {
    "name": "dpo",
    "beta": 0.2,
    "lr": 1e-4,
    "batch_size": 32,
    "epochs": 1,
    "warmup": 0.06,
    "micro_batch_tokens": 1024,
}


def steps(variant: str, changes: dict[str, Any]) -> list[dict[str, Any]]:
    """The recipe's steps with `aligned` exchanged; a step that nothing reads any more is left out."""
    found: list[dict[str, Any]] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["steps"]
    if variant == "dpo":
        aligned = {"id": "aligned", "step": "train", "policy": "@sft", "optimizer_stage": {**DPO, **changes}}
        aligned |= {"data": "@ratings", "eval_data": "@ratings_test"}
        kept = [step for step in found if step["id"] not in ("reward", "report")]
        return [aligned if step["id"] == "aligned" else step for step in kept]
    for step in found:
        if step["id"] == "aligned":
            step |= ADVANTAGES[variant]
            if variant != "gae":  # no critic
                changes = NO_CRITIC | changes
                step.pop("critic_init")
                step.pop("critic_head")
                for option in ("critic_lr", "value_clip_range"):
                    step["optimizer_stage"].pop(option)
            step["kl"] |= {k: v for k, v in changes.items() if k == "coef"}
            step["optimizer_stage"] |= {k: v for k, v in changes.items() if k != "coef"}
    return found


def run(arguments: argparse.Namespace, variant: str, seed: int, changes: dict[str, Any]) -> Path:
    """One variant on the kept models; returns the run's folder."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8")) | {"steps": steps(variant, changes)}
    name = f"{variant}-seed{seed}"
    path = Path(arguments.runs) / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "alignkit.cli", "run", str(path), f"data={arguments.data}", f"seed={seed}"]
    command += [f"name={name}", f"output={arguments.runs}", "--reuse", str(Path(arguments.runs) / f"seed{seed}")]
    subprocess.run(command, check=True)
    return Path(arguments.runs) / name


def cost(folder: Path) -> dict[str, Any]:
    """Seconds of the step `aligned`, samples it drew, and preferences that it or its reward model read."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    pairs = next(summary[name]["pairs"] for name in ("reward_model", "dpo") if name in summary)
    timing = json.loads((folder / "timing.json").read_text(encoding="utf-8"))
    step = next(folder.glob("r1/*-aligned/manifest.json"))
    options = json.loads(step.read_text(encoding="utf-8"))["identity"]["options"]
    seconds = next(row["seconds"] for row in timing["steps"] if row["id"] == "aligned")
    return {"seconds": seconds, "samples": options.get("iterations", 0) * options.get("batch_size", 0), "pairs": pairs}


def main() -> None:
    """Run, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", default="runs/sentiment-benchmark")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[*ADVANTAGES, "dpo"], help="which variants")
    parser.add_argument("--prompts", type=Path, help="other prompts than the evaluation's, to choose settings on")
    parser.add_argument("--set", nargs="*", default=[], help="KEY=VALUE of the stage, or coef=VALUE of the KL")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in arguments.set)}
    judge = CriticsJudge(arguments.data)
    rows = []
    for variant in arguments.only:
        for seed in arguments.seeds:
            folder = run(arguments, variant, seed, changes)
            measured = evaluate(folder, arguments.data, judge, arguments.prompts)
            rows.append({"variant": variant, **measured, **cost(folder)})
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "judge_test_accuracy": judge.test_accuracy,
        "sampling": SAMPLING.model_dump(),
        "settings": {"advantages": ADVANTAGES, "no_critic": NO_CRITIC, "dpo": DPO, "changes": changes},
        "rows": rows,
    }
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
