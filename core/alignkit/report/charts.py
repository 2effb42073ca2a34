"""Which curves share a chart, in which order, and what is said about them in words."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from alignkit.report.read import RunFiles
from alignkit.report.series import Curves, Key, Series
from alignkit.report.wording import Wording, base_metric, number, shortened, wording

MAX_CHARTS = 50
MAX_ROUNDS = 8
NAMES_SHOWN = 20


@dataclass(frozen=True)
class Line:
    """One curve of a chart. `color` numbers the round among those drawn; held-out curves are dashed."""

    round: int
    color: int
    held_out: bool
    series: Series

    @property
    def caption(self) -> str:
        """First and last value: what the curve says, for those who cannot see it."""
        ends = self.series.ends or ()
        rows = sum(bucket.rows for bucket in self.series.buckets)
        values = " → ".join(number(value, 3) for value in (ends if rows > 1 else ends[:1]))
        return f"round {self.round}{', held-out' if self.held_out else ''}: {values}"


@dataclass(frozen=True)
class Chart:
    """One metric of one step, all rounds in it."""

    step: str
    metric: str
    words: Wording
    title: str
    x_label: str
    lines: tuple[Line, ...]

    @property
    def name(self) -> str:
        """The metric as the step calls it."""
        return shortened(self.metric, 80)

    @property
    def description(self) -> str:
        """Text alternative of the drawing."""
        captions = "; ".join(line.caption for line in self.lines)
        drawn = f"{self.title} ({self.words.unit}) of step {self.step} by {self.x_label}"
        return f"Line chart, {drawn}. {captions}."

    @property
    def notes(self) -> list[str]:
        """What the drawing leaves out."""
        found: list[str] = []
        width = max(line.series.width for line in self.lines)
        if width > 1:
            found.append(f"Each point is the mean of up to {width:,} rows, the shade spans all their values.")
        dropped = sum(line.series.dropped for line in self.lines)
        if dropped:
            found.append(f"Not finite and not drawn: {dropped:,} {'value' if dropped == 1 else 'values'}.")
        return found


@dataclass(frozen=True)
class StepCharts:
    """The charts of one step under one heading and legend."""

    step: str
    kind: str
    rounds: tuple[tuple[int, int], ...]
    all_rounds: int
    held_out: bool
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Gallery:
    """All charts, and in sentences what is not among them."""

    steps: tuple[StepCharts, ...]
    notes: tuple[str, ...]


def arrange(run: RunFiles, curves: Curves, simulated: bool) -> Gallery:
    """At most `MAX_CHARTS` charts, grouped by step in the order of the run; the rest is counted."""
    found = _charts(run, curves, simulated)
    # Every step keeps its most telling charts before any step gets its odd ones; sorting is stable.
    kept = set(map(id, sorted(found, key=lambda c: c.words.rank)[:MAX_CHARTS]))
    left_out = [c for c in found if id(c) not in kept]
    steps = []
    for step in dict.fromkeys(c.step for c in found):
        charts = tuple(c for c in found if id(c) in kept and c.step == step)
        if charts:
            steps.append(_under_one_heading(run, step, charts, curves))
    return Gallery(tuple(steps), tuple(_notes(left_out, curves)))


def _charts(run: RunFiles, curves: Curves, simulated: bool) -> list[Chart]:
    groups: dict[tuple[str, str], list[tuple[Key, Series, bool]]] = defaultdict(list)
    for key, series in curves.series.items():
        if series.ends:
            metric, held_out = base_metric(key.metric)
            groups[key.step, metric].append((key, series, held_out))
    shown = {step: _shown_rounds(_rounds(curves, step)) for step in {step for step, _ in groups}}
    charts = []
    for (step, metric), members in groups.items():
        colors = shown[step]
        lines = [Line(k.round, colors[k.round], held, s) for k, s, held in members if k.round in colors]
        if lines:
            words = wording(metric)
            title = words.title + (" (simulated)" if simulated and metric.startswith("true_reward") else "")
            lines.sort(key=lambda line: (line.round, line.held_out))
            charts.append(Chart(step, metric, words, title, _axis(run.options(step)), tuple(lines)))
    order = {step: i for i, (step, _) in enumerate(groups)}
    return sorted(charts, key=lambda c: (order[c.step], c.words.rank, c.metric))


def _axis(options: dict[str, Any]) -> str:
    """What a step's rows count: iterations where it fills the loop's slots, optimizer steps where it only trains."""
    if "optimizer_stage" not in options:
        return "index"
    return "iteration" if "reward_source" in options else "optimizer step"


def _rounds(curves: Curves, step: str) -> list[int]:
    return sorted({key.round for key, s in curves.series.items() if key.step == step and s.ends})


def _shown_rounds(rounds: list[int]) -> dict[int, int]:
    """Round -> colour number; of many rounds the first, the last and some evenly between."""
    if len(rounds) > MAX_ROUNDS:
        last = len(rounds) - 1
        rounds = [rounds[round(i * last / (MAX_ROUNDS - 1))] for i in range(MAX_ROUNDS)]
    return {number: color for color, number in enumerate(rounds)}


def _under_one_heading(run: RunFiles, step: str, charts: tuple[Chart, ...], curves: Curves) -> StepCharts:
    options = run.options(step)
    stage = options.get("optimizer_stage")
    name = stage.get("name") if isinstance(stage, dict) else stage
    kind = " · ".join(str(part) for part in (options.get("step"), name) if part)
    rounds = _rounds(curves, step)
    held_out = any(line.held_out for chart in charts for line in chart.lines)
    return StepCharts(step, kind, tuple(_shown_rounds(rounds).items()), len(rounds), held_out, charts)


def _notes(left_out: list[Chart], curves: Curves) -> list[str]:
    found: list[str] = []
    if left_out:
        names = [f"{c.name} of {c.step}" for c in left_out[:NAMES_SHOWN]]
        more = f" and {len(left_out) - NAMES_SHOWN:,} more" if len(left_out) > NAMES_SHOWN else ""
        found.append(f"{len(left_out):,} further charts are not drawn: {', '.join(names)}{more}.")
    if curves.refused:
        found.append(f"At least {len(curves.refused):,} further metrics are not read: too many names.")
    empty = sum(not series.ends for series in curves.series.values())
    if empty:
        found.append(f"Without any finite value, and so without a chart: {empty:,} of the curves.")
    if curves.unreadable:
        found.append(f"{curves.unreadable:,} lines of metrics could not be read and are left out.")
    return found
