"""Imports published human judgements and sets the figures measured here beside those stated for them.

python benchmarks/agreement/run.py --data FOLDER --json benchmarks/results/agreement.json

FOLDER/preferences and FOLDER/eval hold the files that README.md names. Each figure is computed by `alignkit.agreement`
or `alignkit.comparison` on what `alignkit feedback import` wrote; where the stated figure has another definition, it is
computed too.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from alignkit.agreement import agreement, length_preference, preference_votes, rating_votes
from alignkit.annotation.reading import Feedback, read_feedback
from alignkit.comparison import compare, swap_consistency
from alignkit.records import Judgement

PANDALM = ("prompt=instruction,input", "first=response1", "second=response2")
JUDGED = ("first=output_1", "second=output_2")


def main() -> None:
    """Write the table as JSON, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Data(options.data, Path(folder))
        rows = [row for part in (pandalm, convarg, sentiment, swapped) for row in part(data)]
    for row in rows:
        stated = "" if row["stated"] is None else f"{row['stated']:.3f}"
        print(f"{row['data']:<22} {row['figure']:<62} {stated:>6} {row['measured']:.4f}  {row['cases']:,}")
    written = {"date": datetime.now(UTC).date().isoformat(), "rows": rows}
    options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


class Data:
    """Imports files into folders of their own, once each."""

    def __init__(self, source: Path, work: Path) -> None:
        self._source = source
        self._work = work

    def read(self, file: str, form: str, *options: str, kind: str = "human") -> Feedback:
        """What `alignkit feedback import` makes of a file."""
        to = self._work / str(len(list(self._work.iterdir())))
        settings = [part.replace("DATA", str(self._source)) for option in options for part in ("-o", option)]
        command = [sys.executable, "-m", "alignkit.cli", "feedback", "import", str(self._source / file)]
        command += ["--format", form, "--to", str(to), "--kind", kind, *settings]
        subprocess.run(command, check=True, capture_output=True)
        return read_feedback(to)

    def rows(self, file: str) -> list[dict[str, Any]]:
        """The rows as they are."""
        return [json.loads(line) for line in (self._source / file).read_text(encoding="utf-8").splitlines()]


def row(data: str, figure: str, stated: float | None, measured: float, cases: int) -> dict[str, Any]:
    """One line of the table."""
    return {"data": data, "figure": figure, "stated": stated, "measured": round(measured, 4), "cases": cases}


def pandalm(data: Data) -> Iterable[dict[str, Any]]:
    """Three people, and two models against their majority."""
    file = "preferences/pandalm_votes.jsonl"
    people = data.read(file, "votes", *PANDALM, "votes=human_votes")
    found = agreement(*people)["preference"]
    yield row("PandaLM", "two people agree", 0.93, found.raw or 0, found.comparisons)
    yield row("PandaLM", "Krippendorff's alpha", None, found.alpha or 0, found.items)
    votes = preference_votes(*people)
    unanimous = [len(set(own.values())) == 1 for own in votes.values()]
    yield row("PandaLM", "all three agree", 0.89, sum(unanimous) / len(unanimous), len(unanimous))
    models = data.read(file, "votes", *PANDALM, "votes=ai_votes", kind="model")
    for name, stated in (("gpt-3.5-turbo", 0.70), ("pandalm-7b", 0.66)):
        compared = compare(people.tasks, people.judgements, said_by(models.judgements, name))
        assert compared.same is not None
        assert compared.accuracy is not None
        asked = len(people.tasks)
        yield row("PandaLM", f"{name}: same answer as the majority", None, compared.same.share, compared.same.n)
        hits = round(compared.same.share * compared.same.n)
        yield row("PandaLM", f"{name}: the same, no answer counted as wrong", stated, hits / asked, asked)
        yield row("PandaLM", f"{name}: accuracy, ties left out", None, compared.accuracy.share, compared.accuracy.n)
        yield row("PandaLM", f"{name}: Cohen's kappa", None, compared.kappa or 0, compared.items)
    assert compared.longest is not None
    yield row("PandaLM", "always the longer answer, ties left out", None, compared.longest.share, compared.longest.n)


def convarg(data: Data) -> Iterable[dict[str, Any]]:
    """Five workers on each pair of arguments."""
    texts = "texts=DATA/preferences/ukp_convarg_arguments.jsonl"
    votes = data.read("preferences/ukp_convarg_votes.jsonl", "votes", "prompt=debate", "first=a", "second=b", texts)
    found = agreement(*votes)["preference"]
    yield row("UKPConvArg1", "two workers give the same of three answers", 0.55, found.raw or 0, found.comparisons)
    yield row("UKPConvArg1", "Krippendorff's alpha", None, found.alpha or 0, found.items)
    longer = length_preference(*votes)
    assert longer is not None
    yield row("UKPConvArg1", "longer argument preferred, every vote for a side", None, longer.share, longer.n)
    for part, stated in (("train", 0.752), ("test", 0.737)):
        file = f"preferences/ukp_convarg_pairs_{part}.jsonl"
        longer = length_preference(*data.read(file, "trl"))
        assert longer is not None
        yield row("UKPConvArg1", f"longer argument wins, {part}, equal lengths left out", None, longer.share, longer.n)
        wins = [len(pair["chosen"]) > len(pair["rejected"]) for pair in data.rows(file)]
        yield row("UKPConvArg1", f"the same by a loop over {part} rows, equal is no win", stated, mean(wins), len(wins))


def sentiment(data: Data) -> Iterable[dict[str, Any]]:
    """Three raters of each sentence."""
    file = "preferences/sst_ratings_train.jsonl"
    ratings = data.read(file, "ratings", "ratings=scores", "low=1", "high=25")
    found = agreement(*ratings)["rating"]
    yield row("SST", "two raters give the same of 25 marks", None, found.raw or 0, found.comparisons)
    yield row("SST", "Krippendorff's alpha, interval", None, found.alpha or 0, found.items)
    text = {task.id: task.candidates[0].completion for task in ratings.tasks}
    votes = {text[item[0]]: list(own.values()) for item, own in rating_votes(*ratings).items()}
    pairs = data.read("preferences/sst_pairs_train.jsonl", "trl")
    texts = [tuple(c.completion for c in task.candidates) for task in pairs.tasks]
    scores = [votes[text] for pair in texts for text in pair]
    known = [(scores[2 * n], scores[2 * n + 1]) for n in range(len(texts))]
    yield row("SST", "one rater orders a published pair as the mean of the others", None, *one_against_others(known))
    fair = [pair for seed in range(4) for pair in neighbours(list(votes.values()), seed)]
    yield row("SST", "the same, pairs whose others are 0.1 apart", 0.831, *one_against_others(fair, apart=0.1))


def neighbours(scores: list[list[float]], seed: int) -> Iterable[tuple[list[float], list[float]]]:
    """Every sentence once, in pairs that the dice make."""
    order = random.Random(seed).sample(scores, len(scores))
    return zip(order[::2], order[1::2], strict=True)


def one_against_others(pairs: Sequence[tuple[list[float], list[float]]], apart: float = 0.0) -> tuple[float, int]:
    """Leave one rater of each side out: whether the two order the pair as the means of the rest. Ties count half.

    Only pairs whose rest is at least `apart` apart, of a scale of length 1.
    """
    score, cases = 0.0, 0
    for first, second in pairs:
        for i, j in product(range(len(first)), range(len(second))):
            rest = mean(first[:i] + first[i + 1 :]) - mean(second[:j] + second[j + 1 :])
            if abs(rest) < apart - 1e-9:
                continue
            own = first[i] - second[j]
            cases += 1
            score += 0.5 if abs(own) < 1e-9 or abs(rest) < 1e-9 else float((own > 0) == (rest > 0))
    return score / cases, cases


def swapped(data: Data) -> Iterable[dict[str, Any]]:
    """Models that were asked in both orders."""
    for name, file in (("LLMBar", "eval/llmbar.jsonl"), ("MT-bench", "eval/mt_bench_human_200.jsonl")):
        people = data.read(file, "votes", *JUDGED, "votes=human_label")
        models = data.read(file, "votes", *JUDGED, "votes=ai_votes", kind="model")
        by_model: dict[str, list[Judgement]] = defaultdict(list)
        for judgement in models.judgements:
            by_model[judgement.annotator.id].append(judgement)
        for model, judgements in by_model.items():
            consistent, compared = swap_consistency(judgements), compare(people.tasks, people.judgements, judgements)
            assert consistent is not None
            assert compared.accuracy is not None
            yield row(name, f"{model}: same answer in both orders", None, consistent.share, consistent.n)
            found = compared.accuracy
            yield row(name, f"{model}: accuracy of both orders together, ties left out", None, found.share, found.n)
        if name == "LLMBar":
            yield from single_answers(data.rows(file), people, by_model)


def single_answers(
    rows: Sequence[dict[str, Any]], people: Feedback, by_model: dict[str, list[Judgement]]
) -> Iterable[dict[str, Any]]:
    """The answer in each order by itself, by subset of LLMBar: four of the five are made to mislead a judge."""
    subset = {task.id: row["subset"] for task, row in zip(people.tasks, rows, strict=True)}
    label = {item[0]: next(iter(own.values())) for item, own in preference_votes(*people).items()}
    for model, stated in (("ChatGPT", 0.40), ("GPT-4", 0.83)):
        hits: dict[str, list[bool]] = defaultdict(list)
        for judgement in by_model[model]:
            if judgement.evidence is not None:
                both = (judgement.evidence.p_given, judgement.evidence.p_swapped)
                hits[subset[judgement.task_id]] += [answer == label[judgement.task_id] for answer in both]
        every = [hit for own in hits.values() for hit in own]
        shares = [mean(own) for own in hits.values()]
        yield row("LLMBar", f"{model}: single answers, mean of the subsets", stated, mean(shares), len(every))
        misled = [hit for name, own in hits.items() if name.startswith("Adversarial") for hit in own]
        yield row("LLMBar", f"{model}: single answers, adversarial subsets alone", None, mean(misled), len(misled))


def said_by(judgements: Iterable[Judgement], name: str) -> list[Judgement]:
    """Those of one annotator."""
    return [j for j in judgements if j.annotator.id == name]


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
