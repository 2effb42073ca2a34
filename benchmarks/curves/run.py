"""Learning curves on two rewards that a program computes, with the settings the peers' curves were measured with.

    python benchmarks/curves/run.py --model FOLDER --prompts F [--seeds 0 1 2] [--peer FOLDER] --json F [--plot F]

FOLDER is any small chat model, F a JSONL file of {"prompt": text}. Every run: 32 completions of at most 24 tokens per
update, prompts of at most 24 tokens, temperature 1, Adam at a constant 1e-3. Measured: episodes (completions) until the
mean reward of five updates reaches .9, the KL to the start (token-summed log-ratio, nats) at that update, and reward
and KL over the last ten updates. `pad_is_eos` is the same model whose tokenizer pads with the end token.

--peer names a folder with another library's curves for the plot and the table: NAME-sSEED.csv with the columns
episodes, mean_reward and, where it reports one, kl.
"""

import argparse
import csv
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

LENGTH = 24
BATCH = 32
LR = 1e-3


class Curve(NamedTuple):
    """What one curve varies."""

    name: str
    reward: str
    updates: int
    advantage: dict[str, Any]
    stage: dict[str, Any]
    kl: dict[str, Any]
    samples_per_prompt: int = 1
    pad_is_eos: bool = False


GAE = {"name": "gae", "gamma": 1.0, "lam": 0.95}
PPO = {"name": "ppo", "epochs": 4, "minibatches": 4, "value_coef": 0.1}
# The peer's loop leaves Adam's epsilon at 1e-8 and does not clip gradients; the defaults here are 1e-5 and norm 1.
AS_PEER = {**PPO, "eps": 1e-8, "max_grad_norm": 1e9}
K1 = {"coef": 0.01}
GRPO = {"name": "ppo", "epochs": 1, "minibatches": 1, "eps": 1e-8}
CURVES = (
    Curve("ppo-letter", "letter", 100, GAE, PPO, K1),
    Curve("ppo-letter-as-peer", "letter", 100, GAE, AS_PEER, K1),
    Curve("ppo-brevity", "brevity", 80, GAE, PPO, K1),
    Curve("ppo-brevity-as-peer", "brevity", 80, GAE, AS_PEER, K1),
    Curve("ppo-brevity-pad-is-eos", "brevity", 80, GAE, PPO, K1, pad_is_eos=True),
    Curve("ppo-brevity-pad-is-eos-as-peer", "brevity", 80, GAE, AS_PEER, K1, pad_is_eos=True),
    Curve("grpo-letter", "letter", 100, {"name": "grpo"}, GRPO, {"coef": 0.0}, samples_per_prompt=8),
    Curve("grpo-brevity", "brevity", 80, {"name": "grpo"}, GRPO, {"coef": 0.0}, samples_per_prompt=8),
)


def recipe(curve: Curve, seed: int, folder: Path) -> dict[str, Any]:
    """The run as a recipe."""
    model = str(folder / ("model-pad-is-eos" if curve.pad_is_eos else "model"))
    return {
        "name": f"{curve.name}-s{seed}",
        "seed": seed,
        "output": str(folder / "runs"),
        "policy": {"name": "causal_lm", "path": model},
        "steps": [
            {"id": "questions", "step": "data", "format": "prompts", "files": str(folder / "prompts.jsonl")},
            {
                "id": "aligned",
                "step": "align",
                "reward_source": {"name": "token_reward", "kind": curve.reward, "tokenizer": model, "length": LENGTH},
                "advantage": curve.advantage,
                "optimizer_stage": {**curve.stage, "lr": LR, "schedule": "constant"},
                "prompts": "@questions",
                "sampling": {"max_length": LENGTH},
                "iterations": curve.updates,
                "batch_size": BATCH,
                "samples_per_prompt": curve.samples_per_prompt,
                "kl": curve.kl,
            },
        ],
    }


def train(curve: Curve, seed: int, folder: Path) -> list[dict[str, float]]:
    """One run through the engine; returns a row per update."""
    import logging

    import rewards
    import torch

    from alignkit.engine import run_recipe
    from alignkit.manager import PluginManager, PluginStatus
    from alignkit.recipe import load_recipe

    torch.set_num_threads(1)
    logging.getLogger("alignkit").setLevel(logging.WARNING)
    manager = PluginManager()
    manager.load()
    status = PluginStatus("token_reward", "benchmarks-curves", "0")
    manager.register(rewards, status)
    assert status.problem is None, status.problem
    body = recipe(curve, seed, folder)
    path = folder / f"{body['name']}.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    run_recipe(load_recipe(str(path), manager=manager))
    with next((folder / "runs" / body["name"]).glob("r1/*-aligned/metrics.jsonl")).open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if "reward" in row]
    return [
        {"episodes": (n + 1) * BATCH, "mean_reward": row["reward"], "kl": row["kl"], "length": row["length"]}
        for n, row in enumerate(rows)
    ]


def figures(rows: list[dict[str, float]]) -> dict[str, float | None]:
    """Episodes to a five-update mean of .9, the KL there, and the last ten updates."""
    reached = [n for n in range(4, len(rows)) if sum(row["mean_reward"] for row in rows[n - 4 : n + 1]) / 5 >= 0.9]
    at = rows[reached[0]] if reached else None
    last = rows[-10:]
    has_kl = "kl" in rows[0]
    return {
        "episodes_to_0.9": at["episodes"] if at else None,
        "kl_at_0.9": at["kl"] if at and has_kl else None,
        "reward_last_10": sum(row["mean_reward"] for row in last) / len(last),
        "kl_last_10": sum(row["kl"] for row in last) / len(last) if has_kl else None,
    }


def peer_curves(folder: Path) -> dict[str, list[dict[str, float]]]:
    """NAME-sSEED -> a row per update."""
    found = {}
    for path in sorted(folder.glob("*-s*.csv")):
        with path.open(encoding="utf-8") as lines:
            wanted = ("episodes", "mean_reward", "kl")
            found[path.stem] = [{k: float(row[k]) for k in wanted if k in row} for row in csv.DictReader(lines)]
    return found


def prepare(model: Path, prompts: Path, folder: Path) -> None:
    """Both copies of the model, and the prompts that are short enough."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model)
    for name in ("model", "model-pad-is-eos"):
        loaded.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        tokenizer.pad_token = tokenizer.eos_token  # for the second one
        loaded.config.pad_token_id = loaded.generation_config.pad_token_id = tokenizer.eos_token_id
    kept = []
    for line in prompts.read_text(encoding="utf-8").splitlines():
        turns = [{"role": "user", "content": json.loads(line)["prompt"]}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        if len(ids) <= LENGTH:
            kept.append({"prompt": turns})
    assert kept, f"no prompt of {prompts} has at most {LENGTH} tokens"
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def draw(curves: dict[str, list[dict[str, float]]], peers: dict[str, list[dict[str, float]]], path: Path) -> None:
    """A panel for each task: reward against episodes with this project's defaults, the peer's settings, the peer."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    styles = (
        (peers, "", "tab:orange", "peer"),
        (curves, "-as-peer", "tab:cyan", "alignkit, the peer's optimizer settings"),
        (curves, "", "tab:blue", "alignkit"),
    )
    tasks = list(dict.fromkeys(name.rsplit("-s", 1)[0].removesuffix("-as-peer") for name in curves))
    columns = (len(tasks) + 1) // 2
    figure, axes = plt.subplots(2, columns, figsize=(4 * columns, 6), sharey=True, squeeze=False)
    for panel, task in zip(axes.flat, tasks, strict=False):
        for source, suffix, color, label in styles:
            mine = [rows for name, rows in source.items() if name.rsplit("-s", 1)[0] == task + suffix]
            for n, rows in enumerate(mine):
                x, y = [row["episodes"] for row in rows], [row["mean_reward"] for row in rows]
                panel.plot(x, y, color=color, linewidth=1, label=label if n == 0 else None)
        panel.axhline(0.9, color="grey", linewidth=0.5)
        panel.set_title(task, fontsize=10)
        panel.set_xlabel("episodes")
    for panel in axes.flat[len(tasks) :]:
        panel.remove()
    for row in axes:
        row[0].set_ylabel("mean reward of an update")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="curves whose name has this text")
    parser.add_argument("--peer", type=Path, help="folder of another library's curves")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    chosen = [curve for curve in CURVES if arguments.only in curve.name]
    with tempfile.TemporaryDirectory() as temp, ProcessPoolExecutor(arguments.jobs) as pool:
        folder = Path(temp)
        prepare(arguments.model, arguments.prompts, folder)
        jobs = {f"{c.name}-s{s}": pool.submit(train, c, s, folder) for c in chosen for s in arguments.seeds}
        curves = {name: job.result() for name, job in jobs.items()}
    peers = peer_curves(arguments.peer) if arguments.peer else {}
    peers = {name: rows for name, rows in peers.items() if name.rsplit("-s", 1)[0] in {c.name for c in chosen}}
    from alignkit.engine.environment import environment

    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "settings": {"length": LENGTH, "batch_size": BATCH, "lr": LR},
        "figures": {name: figures(rows) for name, rows in curves.items()},
        "peer_figures": {name: figures(rows) for name, rows in peers.items()},
        "curves": {
            name: {key: [round(row[key], 4) for row in rows] for key in ("mean_reward", "kl", "length")}
            for name, rows in curves.items()
        },
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        draw(curves, peers, arguments.plot)
    for source in ("figures", "peer_figures"):
        for name, row in result[source].items():
            print(f"{source:13}{name:28}", {k: v if v is None else round(v, 3) for k, v in row.items()})


if __name__ == "__main__":
    main()
