"""Runs recipes/quickstart.yaml with several seeds and writes the figures of each.

python benchmarks/quickstart/run.py [--seeds 0 1 2] [--rounds N] --json F

Everything in it is simulated: the texts, the annotators, the true reward. Finished runs are only read.
"""

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignkit.engine.environment import environment


def figures(run: Path) -> dict[str, Any]:
    """What the README quotes of one run."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    timing = json.loads((run / "timing.json").read_text(encoding="utf-8"))
    rounds = [of_round(summary["rounds"][number]) for number in range(len(summary["rounds"]))]
    more = {"rounds": rounds} if len(rounds) > 1 else {}
    return {"seed": summary["seed"], **rounds[-1], **more, "seconds": timing["seconds"]}


def of_round(summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of one round. `true_reward` is measured on openings that no round trained on."""
    policy, labels = summary["policy"], summary["feedback"]["labels"]
    drift = ("accuracy", "rank_correlation")
    return {
        "reward_model": {k: v for k, v in summary["reward_model"].items() if k.startswith(drift)},
        "ppo": {k: v for k, v in summary["ppo"].items() if "reward" in k or k == "kl"},
        "true_reward": {"sft": policy["before"]["judge"], "after": policy["after"]["judge"], "kl": policy["kl"]},
        "win_rate": policy["win_rate"],
        "distinct_2": {"before": policy["before"]["distinct_2"], "after": policy["after"]["distinct_2"]},
        "snapshot": labels.get("snapshot"),
    }


def main() -> None:
    """Run, read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="further KEY=VALUE for every run")
    parser.add_argument("--runs", type=Path, default=Path("runs/quickstart-benchmark"))
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        options = [f"seed={seed}", f"name=seed{seed}", f"output={arguments.runs}", f"rounds={arguments.rounds}"]
        options += arguments.set
        subprocess.run([sys.executable, "-m", "alignkit.cli", "run", "quickstart", *options], check=True)
        rows.append(figures(arguments.runs / f"seed{seed}"))
    result = {"date": datetime.now(UTC).date().isoformat(), "environment": environment(), "rows": rows}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
