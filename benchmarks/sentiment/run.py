"""Measures recipes/sentiment.yaml: three seeds, four betas, an independent judge.

    python benchmarks/sentiment/run.py --data FOLDER [--seeds 0 1 2] [--betas 0.08 0.2 0.4] --json F

Each seed is a whole run (pretraining included); each further beta takes over the first seed's models and does PPO only.
Runs that are already finished are only measured. Evaluation: all prompts of eval/sentiment_prompts.jsonl, temperature
1, no top-k or top-p, up to 20 words or the end token; KL is the token-summed log-ratio to the SFT policy, averaged.
"""

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from judge import CriticsJudge

from alignkit.engine.environment import environment
from alignkit.loop.measure import measure
from alignkit.protocols import Policy, Sampler
from alignkit.recipe import ComponentSpec
from alignkit.records import Prompt, Sampling
from alignkit.standalone import standalone_context

SAMPLING = Sampling(temperature=1.0, top_k=0, top_p=1.0, max_length=64, max_words=20)
EVAL_SEED = 1


def run_recipe(arguments: argparse.Namespace, name: str, *options: str) -> Path:
    """`alignkit run sentiment`, or nothing if it is finished; returns the run's folder."""
    command = [sys.executable, "-m", "alignkit.cli", "run", "sentiment", f"data={arguments.data}", f"name={name}"]
    subprocess.run([*command, f"output={arguments.runs}", *arguments.option, *options], check=True)
    return Path(arguments.runs) / name


def evaluate(run: Path, data: Path, judge: CriticsJudge, other_prompts: Path | None = None) -> dict[str, Any]:
    """Share of positive continuations, KL and diversity before (SFT) and after the step `aligned`."""
    sft, aligned = (str(next(run.glob(f"r1/*-{step}")) / "model") for step in ("sft", "aligned"))
    spec = ComponentSpec(name="causal_lm", path=sft)
    context = standalone_context(spec, EVAL_SEED)
    sampler: Sampler = context.build("sampler", ComponentSpec(name="hf"))
    before_policy: Policy = context.build("policy", spec)
    after_policy: Policy = context.build("policy", spec.with_options(path=aligned))
    with (other_prompts or data / "eval/sentiment_prompts.jsonl").open(encoding="utf-8") as lines:
        prompts = [Prompt(prompt=json.loads(line)["prompt"]) for line in lines]
    sources = {"positive": judge}
    before, _ = measure(before_policy, None, sampler, prompts, SAMPLING, sources, context.ops, EVAL_SEED, 16384)
    after, _ = measure(after_policy, before_policy, sampler, prompts, SAMPLING, sources, context.ops, EVAL_SEED, 16384)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    timing = json.loads((run / "timing.json").read_text(encoding="utf-8"))
    return {
        "run": run.name,
        "seed": summary["seed"],
        "prompts": len(prompts),
        "reward_model_accuracy": summary.get("reward_model", {}).get("accuracy"),
        "positive_before": before["positive"],
        "positive_after": after["positive"],
        "kl": after["kl"],
        "distinct_2_before": before["distinct_2"],
        "distinct_2_after": after["distinct_2"],
        "length_before": before["length"],
        "length_after": after["length"],
        "seconds": timing["seconds"],
    }


def main() -> None:
    """Run, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", default="runs/sentiment-benchmark")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--betas", type=float, nargs="*", default=[])
    parser.add_argument("--option", nargs="*", default=[], help="further KEY=VALUE for every run")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    judge = CriticsJudge(arguments.data)
    rows = []
    for seed in arguments.seeds:
        run = run_recipe(arguments, f"seed{seed}", f"seed={seed}")
        rows.append({"beta": "recipe", **evaluate(run, arguments.data, judge)})
    first = Path(arguments.runs) / f"seed{arguments.seeds[0]}"
    for beta in arguments.betas:
        options = (f"seed={arguments.seeds[0]}", f"beta={beta}", "--reuse", str(first))
        run = run_recipe(arguments, f"beta{beta:g}", *options)
        rows.append({"beta": beta, **evaluate(run, arguments.data, judge)})
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "judge_test_accuracy": judge.test_accuracy,
        "sampling": SAMPLING.model_dump(),
        "rows": rows,
    }
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
