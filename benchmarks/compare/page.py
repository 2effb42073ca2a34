"""Writes the figures of benchmarks/results/ into docs/performance.md, between its two marks.

    python benchmarks/compare/page.py

A test compares the page with what this makes, so that page and results cannot part.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/performance.md"
RESULTS = ROOT / "benchmarks/results"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
Json = dict[str, Any]
# Parts of an iteration in the order in which they happen.
PARTS = (
    "rollout", "score", "old log-probs", "reference log-probs", "values", "advantages", "forward", "loss", "backward",
    "optimizer", "update", "other",
)  # fmt: skip
# Ratios by clock and by processor that differ by more than this say that other work was going on.
BUSY = 0.1
SPLIT = ("ppo", "grpo")


def measured() -> str:
    """Everything between the marks."""
    compared = json.loads((RESULTS / "compare_cpu.json").read_text(encoding="utf-8"))
    parts = [setting_of(compared)]
    for model, found in compared["models"].items():
        parts += [f"### {model}", rates(found["rows"]), f"Where an iteration's time goes ({model}, CPU seconds):"]
        parts.append(splits(found["profiles"]))
    grown = RESULTS / "growth_cpu.json"
    if grown.is_file():
        curves = json.loads(grown.read_text(encoding="utf-8"))["curves"]
        parts += ["### Growth", growth(curves), "![seconds of a step](performance_growth.png)"]
    return "\n\n".join(parts)


def setting_of(compared: Json) -> str:
    """One sentence on where and with what it was measured."""
    packages = compared["environment"]["packages"]
    peers = " and ".join(name.replace("==", " ").replace("trl", "TRL") for name in compared["peers"])
    repeats = compared["repeats"]
    often = "once" if repeats == 1 else f"{repeats} times"
    return (
        f"{compared['date']}, {compared['threads']} thread, torch {packages['torch']}, transformers "
        f"{packages['transformers']}, {peers}; each process {often}, by turns, {compared['texts']} texts."
    )


def rates(rows: list[Json]) -> str:
    """A line for each setting of a peer: throughput, and beside it memory and loss."""
    lines = ["| task | peer's setting | ratio | target | memory | loss | by the clock | ours | peer | a CPU second |"]
    lines.append("|---" * 10 + "|")
    by = {(r["task"], r["peer_setting"], r["metric"]): r for r in rows}
    for (task, setting, metric), row in by.items():
        if not setting or not metric.endswith("/CPU-s"):
            continue
        clock = by[task, setting, metric.replace("/CPU-s", "/s")]
        memory, loss = (by.get((task, setting, name)) for name in ("peak RSS MB", "final loss"))
        cells = [task, setting, _judged(row), row["target"], _judged(memory), _judged(loss), _by_clock(clock, row)]
        cells += [_number(row["ours"]), _number(row["peer"]), metric.removesuffix("/CPU-s")]
        lines.append(f"| {' | '.join(cells)} |")
    overhead = [r for r in rows if r["metric"].startswith("engine overhead")]
    said = ", ".join(f"{r['task']} {r['metric'].partition(', ')[2]} {r['ours']:.1%}" for r in overhead)
    return "\n".join(lines) + f"\n\nTime outside of the models' work: {said}."


def splits(profiles: list[Json]) -> str:
    """A column for each side and setting of the tasks that sample."""
    chosen = [p for p in profiles if p["task"] in SPLIT]
    parts = [name for name in PARTS if any(p["seconds"].get(name) for p in chosen)]
    heads = [f"{p['task']}, {'ours' if p['side'] == 'ours' else 'TRL'}: {p['setting']}" for p in chosen]
    lines = [f"| part | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in (*parts, "step"):
        cells = [f"{p['seconds'].get(name, 0.0):.2f}" for p in chosen]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def growth(curves: Json) -> str:
    """Slopes on logarithms."""
    lines = ["| what grows | from | to | slope |", "|---|---|---|---|"]
    for name, curve in curves.items():
        (first, *_, last) = curve["points"]
        lines.append(f"| {name} | {first[0]:g} | {last[0]:g} | {curve['slope']:.2f} |")
    return "\n".join(lines)


def page_with(text: str, found: str) -> str:
    """A page whose part between the marks is `found`. Raises ValueError if it has no marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{found}\n{END}{after}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _by_clock(clock: Json, processor: Json) -> str:
    """The ratio by the clock, if the machine was free enough for it to mean something."""
    return _judged(clock) if abs(clock["ratio"] / processor["ratio"] - 1) < BUSY else "busy"


def _judged(row: Json | None) -> str:
    if row is None:
        return ""
    text = f"{row['ratio']:.3f}" if row["metric"] == "final loss" else f"{row['ratio']:.2f}"
    return text if row["met"] is not False else f"**{text}**"


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), measured()), encoding="utf-8")
