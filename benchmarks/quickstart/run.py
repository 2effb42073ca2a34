"""Runs recipes/quickstart.yaml with several seeds and writes the figures of each.

python benchmarks/quickstart/run.py [--seeds 0 1 2] --json F

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
    policy = summary["policy"]
    return {
        "seed": summary["seed"],
        "reward_model": {k: v for k, v in summary["reward_model"].items() if k.startswith("accuracy")},
        "ppo": {k: v for k, v in summary["ppo"].items() if "reward" in k or k == "kl"},
        "win_rate": policy["win_rate"],
        "distinct_2": {"before": policy["before"]["distinct_2"], "after": policy["after"]["distinct_2"]},
        "seconds": timing["seconds"],
    }


def main() -> None:
    """Run, read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/quickstart-benchmark"))
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        options = [f"seed={seed}", f"name=seed{seed}", f"output={arguments.runs}"]
        subprocess.run([sys.executable, "-m", "alignkit.cli", "run", "quickstart", *options], check=True)
        rows.append(figures(arguments.runs / f"seed{seed}"))
    result = {"date": datetime.now(UTC).date().isoformat(), "environment": environment(), "rows": rows}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
