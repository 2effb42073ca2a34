"""The report shows what the run folder holds, escapes it, loads nothing, and survives what is missing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from alignkit.errors import UserError
from alignkit.report import write_report
from alignkit.report.charts import MAX_CHARTS
from alignkit.report.headline import cards
from alignkit.report.read import SAMPLES_SHOWN
from alignkit.report.tables import sections

HOSTILE = "<script>alert(1)</script>\"><img src=x onerror=alert(2)>'$x^{ {{ 7*7 }}"
SIMULATED = "A program stands in for people here."


def put(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def put_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def manifest(run: Path, round: int, number: int, id: str, **changes: Any) -> None:
    record = {"id": id, "round": round, "status": "finished", "started": "", "seconds": 90.0, "summary": {}}
    put(run / f"r{round}/{number:02d}-{id}/manifest.json", {**record, **changes})


def summary_of_round(number: int) -> dict[str, Any]:
    return {
        "data": {"corpus": {"texts": 1234, "rejected": {"too_long": 17}}},
        "reward_model": {"accuracy": 0.7 + number / 100, "accuracy_longest_baseline": 0.553},
        "ppo": {
            "reward_start": 0.25,
            "reward_end": 1.5 + number,
            "kl": 6.25,
            "true_reward_start": 0.31,
            "true_reward_end": 0.52,
        },
        "policy": {"win_rate": {"mean": 0.684, "low": 0.612, "high": 0.747, "n": 200}},
        "novel_section": {"inner": {"value": 42.5}},
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of two rounds."""
    folder = tmp_path / "quick"
    slots = {"reward_source": {"name": "reward_model"}, "optimizer_stage": {"name": "ppo"}}
    steps = [
        {"id": "corpus", "step": "data", "format": "text"},
        {"id": "sft", "step": "train", "optimizer_stage": {"name": "sft"}},
        {"id": "aligned", "step": "align", "each_round": True, **slots},
        {"id": "eval", "step": "evaluate", "each_round": True, "policy": "@aligned", "against": "@sft"},
    ]
    put(
        folder / "recipe.json",
        {"name": "quick", "seed": 7, "rounds": 2, "steps": steps, "vars": {"k": "v-a-r"}},
    )
    plugin = {
        "name": "ppo",
        "distribution": "dist-x",
        "version": "3.2.1",
        "status": "loaded",
        "problem": None,
    }
    environment = {"python": "3.11.99", "packages": {"torch": "2.11.77"}}
    put(
        folder / "plugins.json",
        {"plugins": [plugin], "environment": environment, "started": "2026-03-01T14:05:00Z"},
    )
    rounds = [summary_of_round(1), summary_of_round(2)]
    put(
        folder / "summary.json",
        {"name": "quick", "seed": 7, "simulation": SIMULATED, **rounds[1], "rounds": rounds},
    )
    manifest(folder, 1, 0, "corpus")
    manifest(folder, 1, 1, "sft")
    rows = [{"round": 1, "step": "sft", "index": i, "loss": 3.0 - i / 100, "lr": 1e-4} for i in range(1, 101)]
    rows.append({"round": 1, "step": "sft", "index": 100, "heldout_loss": 2.22})
    for number in (1, 2):
        manifest(folder, number, 2, "aligned")
        manifest(folder, number, 3, "eval")
        rows += [
            {
                "round": number,
                "step": "aligned",
                "index": i,
                "reward": i / 10,
                "true_reward": i / 20,
                "kl": i / 5,
            }
            for i in range(1, 21)
        ]
        samples = [
            {
                "prompt": f"prompt {i}",
                "before": f"dull {number}-{i}",
                "after": "bright",
                "before_score": 0.1 * i,
                "after_score": 1.25,
            }
            for i in range(SAMPLES_SHOWN + 15)
        ]
        put_rows(folder / f"r{number}/03-eval/samples.jsonl", samples)
    put_rows(folder / "metrics.jsonl", rows)
    ids = [(1, "corpus"), (1, "sft"), (1, "aligned"), (1, "eval"), (2, "aligned"), (2, "eval")]
    times = [{"round": r, "id": id, "seconds": 30.0 if id == "sft" else 60.0} for r, id in ids]
    put(folder / "timing.json", {"seconds": 3725.0, "steps": times})
    return folder


class Page(HTMLParser):
    """What a browser would make of the page: elements with their attributes, and the text."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.source = write_report(folder).read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str) -> int:
        return sum(t == tag for t, _ in self.elements)

    def attributes(self, name: str) -> list[str]:
        return [a[name] for _, a in self.elements if name in a]


def test_headline_numbers(run: Path) -> None:
    text = Page(run).text
    for expected in ("72.0 %", "55.3 %", "+16.7 percentage points", "0.25 → 3.5", "0.31 → 0.52", "6.25"):
        assert expected in text
    assert "Win rate against the policy before 68.4 %" in text
    assert "95 % interval 61.2 % to 74.7 %" in text
    assert "200 prompts" in text


def test_win_rate_interval_is_drawn_to_scale(run: Path) -> None:
    assert "left:61.20%;width:13.50%" in Page(run).attributes("style")


def test_rounds_stand_side_by_side(run: Path) -> None:
    text = Page(run).text
    assert "Headline numbers by round round 1 round 2 Reward-model accuracy 71.0 % 72.0 %" in text
    assert "Learned reward 0.25 → 2.5 0.25 → 3.5" in text


def test_agreement_is_found_in_the_section_of_any_step() -> None:
    figures = {"agreement": {"preference": {"raw": 0.75, "alpha": 0.5, "items": 40, "annotators": 3}}, "judgements": 80}
    (card,) = cards({"opinions": {"labels": figures}, "policy": {"kl_coef": 0.1}})
    assert (card.title, card.value) == ("Annotators agree (preference)", "75.0 %")
    assert card.details == ("Krippendorff's alpha 0.5", "40 items, 3 annotators")


def test_what_is_simulated_is_called_simulated(run: Path) -> None:
    page = Page(run)
    assert page.text.count(SIMULATED) == 1
    assert "True reward simulated" in page.text
    assert "True reward (simulated) true_reward" in page.text


def test_nothing_is_called_simulated_without_reason(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    del summary["simulation"]
    put(run / "summary.json", summary)
    page = Page(run)
    assert "True reward" in page.text
    assert "imulated" not in page.text


@pytest.mark.parametrize("where", ["section", "round", "flag"])
def test_simulated_is_found_wherever_the_summary_says_it(run: Path, where: str) -> None:
    summary = json.loads((run / "summary.json").read_text())
    del summary["simulation"]
    if where == "section":
        summary["ppo"]["simulation"] = SIMULATED
    elif where == "round":
        summary["rounds"][0]["simulation"] = SIMULATED
    else:
        summary["simulation"] = True
    put(run / "summary.json", summary)
    expected = "Parts of this run are simulated" if where == "flag" else SIMULATED
    assert f"Simulated. {expected}" in Page(run).text


def test_charts_have_titles_units_axes_and_text_alternatives(run: Path) -> None:
    page = Page(run)
    assert page.count("figure") == page.count("svg") == 5
    descriptions = [a["aria-label"] for _, a in page.elements if a.get("role") == "img"]
    assert descriptions[0].startswith("Line chart, Loss (nats) of step sft by optimizer step. round 1: 2.99 → 2")
    assert "round 1, held-out: 2.22" in descriptions[0]
    reward = next(d for d in descriptions if d.startswith("Line chart, Reward (mean reward per completion)"))
    assert "by iteration. round 1: 0.1 → 2; round 2: 0.1 → 2." in reward
    for label in ("optimizer step", "iteration", "mean reward per completion", "step size"):
        assert re.search(f"<text [^>]*>{label}</text>", page.source), label


def test_rounds_have_colours_of_their_own_in_every_chart(run: Path) -> None:
    drawings = re.findall(r"<svg.*?</svg>", Page(run).source, flags=re.DOTALL)
    assert len(drawings) == 5
    two_rounds = [d for d in drawings if "var(--c1)" in d and "var(--c2)" in d]
    assert len(two_rounds) == 3
    assert all("var(--muted)" in d for d in drawings)
    assert not any(re.search("#[0-9a-f]{6}", d) for d in drawings), "a fixed colour would vanish in dark mode"


def test_true_reward_stands_beside_reward(run: Path) -> None:
    text = Page(run).text
    assert (
        text.index("Reward reward")
        < text.index("True reward (simulated) true_reward")
        < text.index("KL to the reference policy kl")
    )


def test_samples_of_the_last_round_side_by_side(run: Path) -> None:
    page = Page(run)
    assert "Before (@sft) After (@aligned)" in page.text
    assert "dull 2-0" in page.text
    assert f"dull 2-{SAMPLES_SHOWN - 1}" in page.text
    assert f"dull 2-{SAMPLES_SHOWN} " not in page.text
    assert "dull 1-" not in page.text
    assert f"The first {SAMPLES_SHOWN} of {SAMPLES_SHOWN + 15} samples" in page.text
    assert "prompt 1 0.1 dull 2-1 1.25 · higher bright" in page.text
    assert "prompt 15 1.5 · higher dull 2-15 1.25 bright" in page.text


def test_the_newest_samples_are_found_by_number_not_by_name(run: Path) -> None:
    manifest(run, 10, 3, "eval")
    put_rows(run / "r10/03-eval/samples.jsonl", [{"prompt": "p", "before": "b", "after": "tenth round"}])
    assert "tenth round" in Page(run).text


def test_data_counts_and_rows_left_out_stand_out(run: Path) -> None:
    page = Page(run)
    assert "texts 1,234" in page.text
    assert "corpus.rejected.too_long 17" in page.text
    assert '<tr class="flagged"><th scope="row">corpus.rejected.too_long</th>' in page.source
    # under its own heading: what steps made, apart from what they measured
    assert (
        page.source.index('id="data"')
        < page.source.index("<caption>data</caption>")
        < page.source.index('id="numbers"')
    )
    assert page.source.index('id="numbers"') < page.source.index("<caption>ppo</caption>")


def test_time_plugins_environment_recipe_and_unknown_sections(run: Path) -> None:
    page = Page(run)
    for expected in (
        "1 h 02 min",
        "2026-03-01 14:05 UTC",
        "dist-x 3.2.1 loaded",
        "python 3.11.99",
        "packages.torch 2.11.77",
        "novel_section",
        "inner.value 42.5",
        "v-a-r",
    ):
        assert expected in page.text, expected
    widths = [s for s in page.attributes("style") if s.startswith("width:")]
    assert sorted(widths) == ["width:100.0%"] * 5 + ["width:50.0%"]


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_section_that_a_later_step_stands_in_has_a_table_and_none_comes_twice(rounds: int) -> None:
    first, last = {"sft": {"loss": 1.5, "steps": 3}}, {"sft": {"loss": 0.5, "steps": 3}}
    steps = [{"round": n, "id": id, **own} for n in range(1, rounds + 1) for id, own in (("a", first), ("b", last))]
    found = sections({**last, "rounds": [last] * rounds, "by_step": steps})
    own = [f"sft of a, round {n}" for n in range(1, rounds + 1)]
    assert [table.caption for table in found] == ["sft", *own]
    assert found[0].rows[0].cells == ("0.5",) * rounds
    assert found[1].rows[0].cells == ("1.5",)


def test_the_page_is_valid_enough_to_read(run: Path) -> None:
    page = Page(run)
    assert page.count("h1") == 1
    ids = page.attributes("id")
    assert len(ids) > 10
    assert len(ids) == len(set(ids))
    for anchor in (h for h in page.attributes("href") if h.startswith("#")):
        assert anchor[1:] in ids
    for reference in re.findall(r"url\(#([^)]+)\)", page.source):
        assert reference in ids
    assert page.count("caption") == page.count("table") > 5


def test_the_page_loads_nothing(run: Path) -> None:
    page = Page(run)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not re.search(r"https?:|@import|//", page.source)
    assert all(
        link.startswith(("#", "data:")) for name in ("src", "href", "xlink:href") for link in page.attributes(name)
    )
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "img", "image", "base", "form"}


def test_everything_hostile_is_escaped(run: Path) -> None:
    clean = Page(run)
    put_rows(
        run / "r2/03-eval/samples.jsonl",
        [{"prompt": HOSTILE, "before": HOSTILE, "after": HOSTILE, "before_score": 1.0, HOSTILE: HOSTILE}],
    )
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(
            json.dumps({"round": 1, "step": step, "index": i, HOSTILE: 1.0}) + "\n"
            for i in (1, 2)
            for step in ("sft", HOSTILE)
        )
    summary = json.loads((run / "summary.json").read_text())
    put(run / "summary.json", {**summary, "name": HOSTILE, "simulation": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}})
    recipe = json.loads((run / "recipe.json").read_text())
    put(
        run / "recipe.json",
        {**recipe, HOSTILE: HOSTILE, "steps": [*recipe["steps"], {"id": HOSTILE, "step": HOSTILE}]},
    )
    bad = {
        "name": HOSTILE,
        "distribution": HOSTILE,
        "version": HOSTILE,
        "status": HOSTILE,
        "problem": HOSTILE,
    }
    put(run / "plugins.json", {"plugins": [bad], "environment": {HOSTILE: HOSTILE}, "started": HOSTILE})
    page = Page(run)
    assert page.text.count("<script>alert(1)</script>") >= 25, "shown as text, everywhere it was put"
    assert "{{ 7*7 }}" in page.text
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in clean.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_text_that_no_file_can_hold_is_replaced(run: Path) -> None:
    put_rows(run / "r2/03-eval/samples.jsonl", [{"prompt": "half \ud800 pair", "before": "", "after": "x"}])
    text = Page(run).text
    assert "half ? pair" in text
    assert "(empty)" in text


def test_long_texts_are_cut(run: Path) -> None:
    put_rows(run / "r2/03-eval/samples.jsonl", [{"prompt": "p", "before": "b", "after": "y" * 100_000}])
    page = Page(run)
    assert "(96,000 more characters)" in page.text
    assert page.source.count("y" * 4000) == 1


def test_conversations_are_shown_as_turns(run: Path) -> None:
    turns = [{"role": "user", "content": "Hello?"}]
    put_rows(run / "r2/03-eval/samples.jsonl", [{"prompt": turns, "before": "b", "after": "a"}])
    assert "user: Hello?" in Page(run).text


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_an_empty_folder_says_what_is_missing(tmp_path: Path) -> None:
    text = Page(tmp_path).text
    for expected in (
        "recipe.json",
        "plugins.json",
        "summary.json",
        "timing.json",
        "no metrics",
        "no samples",
    ):
        assert expected in text, expected
    assert "No step has started." in text


@pytest.mark.parametrize("name", ["recipe.json", "plugins.json", "summary.json", "timing.json"])
@pytest.mark.parametrize("content", [None, '{"half', "[1, 2]", "\xff"])
def test_each_file_may_be_missing_or_damaged(run: Path, name: str, content: str | None) -> None:
    assert name not in Page(run).text
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content.encode("latin-1"))
    page = Page(run)
    assert f"What is missing {name}" in page.text
    assert page.count("svg") == 5
    assert page.count("h1") == 1


def test_a_failed_run_shows_what_it_reached(run: Path) -> None:
    (run / "summary.json").unlink()
    (run / "timing.json").unlink()
    manifest(run, 1, 1, "sft", summary={"sft": {"heldout_loss": 2.2468}})
    manifest(run, 2, 2, "aligned", status="started", seconds=0.0)
    (run / "r2/03-eval/manifest.json").unlink()
    put_rows(run / "metrics.jsonl", [])
    put_rows(run / "r2/02-aligned/metrics.jsonl", [{"step": "aligned", "index": i, "kl": 1.0 * i} for i in (1, 2)])
    page = Page(run)
    stopped = "Step aligned of round 2 was started and did not finish."
    assert f"Not finished. 4 of 6 steps are done. {stopped}" in page.text
    assert "heldout_loss 2.247" in page.text
    assert "round 2: 1 → 2" in page.text
    assert "1 min 30 s" in page.text


def test_a_finished_run_is_not_called_unfinished(run: Path) -> None:
    text = Page(run).text
    assert "state finished" in text
    assert "ot finished" not in text
    assert "What is missing" not in text


def test_no_folder_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "nowhere")


def test_values_that_are_not_finite_are_gaps_and_counted(run: Path) -> None:
    values = ["1.0", "null", "NaN", "Infinity", "1e300", "1" + "0" * 400, "2.0"]
    lines = [f'{{"round": 1, "step": "sft", "index": {i}, "odd": {v}}}\n' for i, v in enumerate(values)]
    lines.append('{"round": 1, "step": "sft", "index": 1, "never": null}\n')
    (run / "metrics.jsonl").write_text("".join(lines))
    page = Page(run)
    assert "round 1: 1 → 2 Not finite and not drawn: 5 values." in page.text
    assert "Without any finite value, and so without a chart: 1 of the curves." in page.text
    assert page.count("svg") == 1


def test_unreadable_metric_lines_are_counted(run: Path) -> None:
    good = '{"round": 1, "step": "sft", "index": 1, "loss": 1.0}\n'
    bad = [
        '{"round": 1, "st\n',
        "[1]\n",
        '{"round": 1, "step": "sft", "loss": 1.0}\n',
        '{"step": 4, "index": 1}\n',
    ]
    (run / "metrics.jsonl").write_text(good + "".join(bad))
    assert "4 lines of metrics could not be read" in Page(run).text


def test_at_most_fifty_charts_and_the_rest_is_said(run: Path) -> None:
    metrics = {f"m{i:03d}": 1.0 for i in range(MAX_CHARTS + 20)}
    rows = [{"round": 1, "step": "sft", "index": i, **metrics, "loss": 2.0} for i in (1, 2)]
    put_rows(run / "metrics.jsonl", rows)
    page = Page(run)
    assert page.count("svg") == MAX_CHARTS
    assert "21 further charts are not drawn: m049 of sft" in page.text
    assert "Loss loss" in page.text


def test_of_many_rounds_the_first_and_last_are_drawn(run: Path) -> None:
    put_rows(run / "metrics.jsonl", [{"round": r, "step": "aligned", "index": 1, "kl": 1.0} for r in range(1, 31)])
    text = Page(run).text
    assert "8 of 30 rounds are drawn." in text
    assert "round 1: 1" in text
    assert "round 30: 1" in text
