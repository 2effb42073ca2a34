"""People's labels exchanged for a model's, on the models that `run.py` left: reward source human, ai or mixed.

    python benchmarks/sentiment/swap.py --data FOLDER --runs FOLDER --out FOLDER [--seeds 0 1 2] --json F

`--runs` has seed0, seed1, … of run.py and is only read. A judge is tuned from the first seed's base model (judge.yaml)
to answer A or B on EmoBank texts, and held against people on other texts. Then, for each seed, recipes/sentiment.yaml
runs once for each reward source, its two data steps of labelled pairs replaced by one step `collect` on the same 25,000
pairs. Nothing else differs between the three. Base model and SFT policy are taken over; reward model and PPO are made
anew, with fewer steps than in the recipe (SHORT), so that a variant takes minutes. Finished runs are only measured.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from emobank import TEMPLATE, draw_pairs, questions, rated_texts, write_rows
from judge import CriticsJudge
from run import SAMPLING, evaluate

from alignkit.engine.environment import environment

HERE = Path(__file__).parent
RECIPE = HERE.parents[1] / "recipes/sentiment.yaml"
QUESTIONS: dict[str, Any] = {"pairs": 8000, "singles": 8000, "difference": 0.5, "seed": 0}
# For the judge's figures on EmoBank texts it was not tuned on; the smaller difference is nearer to what SST pairs are.
HELDOUT = {"count": 1500, "seed": 1}
HELDOUT_DIFFERENCES = (0.3, 0.5, 0.8)
SHORT: dict[str, dict[str, Any]] = {
    "reward": {"epochs": 0.7},
    "aligned": {"iterations": 32, "lr": 1.6e-4, "eval_every": 32},
}
UNSURE = 0.2
VOTES = {"votes_for": "rater_pairs_for", "votes_against": "rater_pairs_against", "votes_equal": "rater_pairs_tied"}


def alignkit(*arguments: str) -> str:
    """Run the command; its stdout."""
    command = [sys.executable, "-m", "alignkit.cli", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def import_pairs(files: Sequence[Path], to: Path, votes: bool = False) -> Path:
    """Rows with chosen and rejected as a feedback folder; with `votes` every comparison of two raters is a vote."""
    if not (to / "tasks.jsonl").is_file():
        options = [f"--option={column}={name}" for column, name in VOTES.items()] if votes else []
        alignkit("feedback", "import", *map(str, files), "--format=trl", "--as=rater", f"--to={to}", *options)
    return to


def items(arguments: argparse.Namespace) -> Path:
    """The recipe's 25,000 pairs, with what people said about them, in one feedback folder."""
    to = arguments.out / "items"
    if not (to / "tasks.jsonl").is_file():
        phrases = next((arguments.runs / f"seed{arguments.seeds[0]}").glob("r1/*-phrases")) / "preferences.jsonl"
        sentences = arguments.data / "preferences/sst_pairs_train.jsonl"
        parts = [
            import_pairs([sentences], arguments.out / "sentences", votes=True),
            import_pairs([phrases], arguments.out / "phrases"),
        ]
        files = [str(part / name) for part in parts for name in ("tasks.jsonl", "judgements.jsonl")]
        alignkit("feedback", "import", *files, "--format=jsonl", f"--to={to}")
    return to


def tune_judge(arguments: argparse.Namespace) -> Path:
    """Run judge.yaml on the first seed's base model; the judge's model folder."""
    texts = rated_texts(arguments.data / "preferences/emobank_ratings_train.jsonl")
    rows, seed = arguments.out / "questions.jsonl", arguments.seeds[0]
    write_rows(rows, questions(texts, **QUESTIONS))
    base = next((arguments.runs / f"seed{seed}").glob("r1/*-base")) / "model"
    name = f"judge-seed{seed}"
    options = [f"base={base}", f"rows={rows}", f"seed={seed}", f"name={name}", f"output={arguments.out}"]
    alignkit("run", str(HERE / "judge.yaml"), *options)
    return next((arguments.out / name).glob("r1/*-judge")) / "model"


def reward_sources(arguments: argparse.Namespace, judge: Path) -> dict[str, dict[str, Any]]:
    """The three values of the recipe's variable `reward_source`."""
    made = {"judge": "local", "model": str(judge), "template": str(TEMPLATE), "labels": ["A", "B"]}
    ai = {"name": "ai", **made, "batch_tokens": 2048, "cache": str(arguments.out / "judge_cache.sqlite")}
    human = {"name": "human", "form": "pairwise", "judgements": str(items(arguments) / "judgements.jsonl")}
    return {"human": human, "ai": ai, "mixed": {"name": "mixed", "first": ai, "then": human, "unsure": UNSURE}}


def held_against_people(arguments: argparse.Namespace, judge: dict[str, Any]) -> dict[str, Any]:
    """`alignkit feedback calibrate` on EmoBank texts that the judge was not tuned on, and on the SST test pairs."""
    texts = rated_texts(arguments.data / "preferences/emobank_ratings_test.jsonl")
    files = {"sst_pairs_test": arguments.data / "preferences/sst_pairs_test.jsonl"}
    for difference in HELDOUT_DIFFERENCES:
        name = f"emobank_test_{difference}"
        files[name] = arguments.out / f"{name}.jsonl"
        pairs = draw_pairs(texts, difference=difference, **HELDOUT)
        write_rows(files[name], [{"prompt": "", "chosen": a.text, "rejected": b.text} for a, b in pairs])
    return {name: _calibrated(arguments.out, name, file, judge) for name, file in files.items()}


def _calibrated(out: Path, name: str, file: Path, judge: dict[str, Any]) -> dict[str, Any]:
    place, answers = import_pairs([file], out / name), out / f"judge-on-{name}"
    options = [f"--judge={key}={json.dumps(value)}" for key, value in judge.items() if key != "cache"]
    text = alignkit("feedback", "calibrate", str(place), *options, "--json", "--force", f"--to={answers}")
    keep = ("items", "accuracy", "kappa", "ece", "swap_consistency", "longest", "length_second", "ties_second")
    figures = {key: value for key, value in json.loads(text).items() if key in keep}
    with (answers / "judgements.jsonl").open(encoding="utf-8") as lines:
        masses = [row["evidence"]["label_mass"] for row in map(json.loads, lines)]
    return figures | {"label_mass": {"mean": sum(masses) / len(masses), "lowest": min(masses)}}


def recipe_file(out: Path) -> Path:
    """recipes/sentiment.yaml with `phrases` and `ratings` replaced by one `collect` step, and fewer steps."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    recipe["vars"] |= {"items": None, "reward_source": None}
    collect = {"id": "ratings", "step": "collect", "tasks": "$items", "reward_source": "$reward_source", "heldout": 0}
    kept = [step for step in recipe["steps"] if step["id"] not in ("phrases", "report")]
    recipe["steps"] = [collect if step["id"] == "ratings" else step for step in kept]
    for step in recipe["steps"]:
        for key, value in SHORT.get(step["id"], {}).items():
            (step if key in step else step["optimizer_stage"])[key] = value
    path = out / "swap.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def run_variant(arguments: argparse.Namespace, seed: int, variant: str, source: dict[str, Any]) -> Path:
    """The same recipe with this reward source; the run's folder."""
    place = arguments.out / "items"
    options = [f"data={arguments.data}", f"items={place / 'tasks.jsonl'}", f"seed={seed}", f"name={variant}-seed{seed}"]
    options += [f"output={arguments.out}", f"reward_source={json.dumps(source)}"]
    alignkit("run", str(recipe_file(arguments.out)), *options, "--reuse", str(arguments.runs / f"seed{seed}"))
    return arguments.out / f"{variant}-seed{seed}"


def label_figures(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What the step `collect` counted, and how its labels agree with people's on the same items."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    feedback = summary["feedback"]["ratings"]
    timing = json.loads((folder / "timing.json").read_text(encoding="utf-8"))
    labels = next(folder.glob("r1/*-ratings"))
    compared = json.loads(alignkit("feedback", "compare", str(arguments.out / "items"), str(labels), "--json"))
    seconds = {row["id"]: row["seconds"] for row in timing["steps"]}
    anew = ("ratings", "reward", "aligned")
    return {
        "feedback": {key: feedback[key] for key in ("tasks", "judgements", "not_usable", "pairs", "about_source")},
        "labels_against_people": {key: compared[key] for key in ("items", "accuracy", "kappa", "ece")},
        "seconds": {step: seconds[step] for step in anew} | {"together": sum(seconds[step] for step in anew)},
    }


def write_result(path: Path, critics: CriticsJudge, judge: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """What has been measured so far."""
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "judge_test_accuracy": critics.test_accuracy,
        "sampling": SAMPLING.model_dump(),
        "settings": {"questions": QUESTIONS, "heldout": HELDOUT, "short": SHORT, "unsure": UNSURE},
        "judge": judge,
        "rows": rows,
    }
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Tune, import, run, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="what run.py left; only read")
    parser.add_argument("--out", type=Path, default=Path("runs/sentiment-swap"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=["human", "ai", "mixed"], default=["human", "ai", "mixed"])
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    critics = CriticsJudge(arguments.data)
    model = tune_judge(arguments)
    sources = reward_sources(arguments, model)
    manifest = json.loads((model.parent / "manifest.json").read_text(encoding="utf-8"))
    judge = {"tuning_seconds": manifest["seconds"], **held_against_people(arguments, sources["ai"])}
    print(judge, flush=True)
    rows = []
    for seed in arguments.seeds:
        for variant in arguments.only:
            folder = run_variant(arguments, seed, variant, sources[variant])
            measured = evaluate(folder, arguments.data, critics)
            rows.append({"variant": variant, **measured, **label_figures(arguments, folder)})
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
            write_result(arguments.json, critics, judge, rows)


if __name__ == "__main__":
    main()
