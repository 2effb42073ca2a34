"""The plain tables of the page: summary sections by round, steps with times, plugins and environment."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alignkit.report.headline import SIMULATION, cards
from alignkit.report.read import RunFiles, as_list
from alignkit.report.wording import duration, plain, shortened

MAX_ROWS = 200
MAX_COLUMNS = 8
MAX_STEPS = 60
BY_STEP = "by_step"
LEFT_OUT = ("left_out", "rejected", "dropped", "skipped", "bad_", "usable", "duplicate", "truncated", "without_prompt")


@dataclass(frozen=True)
class Row:
    """A table row: its heading and cells; `flagged` rows stand out."""

    name: str
    cells: tuple[str, ...]
    flagged: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its caption; `note` says what is not in it."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class StepTime:
    """A row of the time chart; `share` is in percent of the longest."""

    round: str
    step: str
    kind: str
    status: str
    time: str
    share: float


def sections(summary: dict[str, Any]) -> list[Table]:
    """Every section of the summary as a table with one column per round; single numbers come under `run`.

    A step that shares its section with a later one has a table of its own.
    """
    rounds = [r for r in as_list(summary.get("rounds")) if isinstance(r, dict)]
    numbered = list(enumerate(rounds, 1))
    if len(numbered) < 2:
        numbered = [(0, {k: v for k, v in summary.items() if k not in ("rounds", BY_STEP)})]
    shown = numbered[-MAX_COLUMNS:]
    columns = tuple(f"round {number}" if number else "value" for number, _ in shown)
    hidden = f"The last {len(shown)} of {len(numbered)} rounds." if len(shown) < len(numbered) else ""
    names = [k for k, v in summary.items() if isinstance(v, dict | list) and k not in ("rounds", BY_STEP)]
    singles = [{k: v for k, v in r.items() if k not in names and k != SIMULATION} for _, r in shown]
    tables = [_section("run", columns, singles, hidden)]
    tables += [_section(name, columns, [r.get(name) for _, r in shown], hidden) for name in names]
    return [table for table in [*tables, *_overwritten(summary, dict(numbered))] if table.rows]


def _overwritten(summary: dict[str, Any], rounds: dict[int, dict[str, Any]]) -> Iterator[Table]:
    """Sections of steps of which a later step's stands in the summary."""
    for step in as_list(summary.get(BY_STEP))[-MAX_STEPS:]:
        if not isinstance(step, dict):
            continue
        whole = rounds.get(0) or rounds.get(_whole(step.get("round")), {})
        for name, section in step.items():
            if (
                isinstance(section, dict)
                and not dict(_flatten(section)).items() <= dict(_flatten(whole.get(name))).items()
            ):
                yield _section(
                    f"{name} of {plain(step.get('id'))}, round {plain(step.get('round'))}", ("value",), [section], ""
                )


def caption(name: str) -> str:
    """The caption of a section's table."""
    return shortened(name, 120)


def _section(name: str, columns: tuple[str, ...], values: list[Any], note: str) -> Table:
    flat = [dict(_flatten(value)) for value in values]
    used = [i for i, column in enumerate(flat) if column]
    flat, columns = [flat[i] for i in used], tuple(columns[i] for i in used)
    keys = list(dict.fromkeys(k for column in flat for k in column))
    rows = tuple(
        Row(shortened(k, 120) or name, tuple(column.get(k, "") for column in flat), _is_left_out(k, flat))
        for k in keys[:MAX_ROWS]
    )
    if len(keys) > MAX_ROWS:
        note = f"{note} {len(keys) - MAX_ROWS:,} further rows are not shown.".strip()
    return Table(caption(name), columns, rows, note)


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif value is not None or prefix:
        yield prefix, shortened(plain(value), 500)


def _is_left_out(key: str, columns: list[dict[str, str]]) -> bool:
    name = key.lower()
    some = any(column.get(key, "0") not in ("0", "–", "no", "[]") for column in columns)
    return some and any(word in name for word in LEFT_OUT)


def rounds_at_a_glance(summary: dict[str, Any]) -> Table | None:
    """The headline numbers of each round side by side; None for a single round."""
    rounds = [r for r in as_list(summary.get("rounds")) if isinstance(r, dict)]
    if len(rounds) < 2:
        return None
    numbered = list(enumerate(rounds, 1))[-MAX_COLUMNS:]
    simulated = bool(summary.get(SIMULATION))
    by_round = [{c.name: c.value for c in cards({**r, SIMULATION: simulated})} for _, r in numbered]
    titles = list(dict.fromkeys(title for column in by_round for title in column))
    rows = tuple(Row(title, tuple(column.get(title, "–") for column in by_round)) for title in titles)
    note = f"The last {len(numbered)} of {len(rounds)} rounds." if len(numbered) < len(rounds) else ""
    columns = tuple(f"round {n}" for n, _ in numbered)
    return Table("Headline numbers by round", columns, rows, note) if rows else None


def times(run: RunFiles) -> list[StepTime]:
    """Time of each step, from timing.json or the manifests; many rounds are added up per step."""
    seconds: dict[tuple[int, str], float] = {}
    for entry in as_list(run.timing.get("steps")):
        if isinstance(entry, dict) and isinstance(entry.get("seconds"), int | float):
            seconds[_whole(entry.get("round")), str(entry.get("id"))] = entry["seconds"]
    status = {(s.round, s.id): s.status for s in run.steps}
    for step in run.steps:
        if step.finished and step.seconds is not None:
            seconds.setdefault((step.round, step.id), step.seconds)
    places = dict.fromkeys([*run.planned, *status, *seconds])
    rows = [(str(r), id, status.get((r, id), "not started"), seconds.get((r, id))) for r, id in places]
    if len(rows) > MAX_STEPS:
        rows = _added_up(rows)
    longest = max((s for *_, s in rows if s is not None), default=0.0) or 1.0
    kinds = {id: plain(run.options(id).get("step", "")) for _, id, _, _ in rows}
    return [
        StepTime(r, id, kinds[id], state, duration(s), round(100 * (s or 0.0) / longest, 2))
        for r, id, state, s in rows[:MAX_STEPS]
    ]


def _added_up(rows: list[tuple[str, str, str, float | None]]) -> list[tuple[str, str, str, float | None]]:
    totals: dict[str, tuple[int, int, float]] = {}
    for _, id, state, seconds in rows:
        count, done, total = totals.get(id, (0, 0, 0.0))
        totals[id] = (count + 1, done + (state == "finished"), total + (seconds or 0.0))
    return [("all", id, f"{done} of {n} finished", total) for id, (n, done, total) in totals.items()]


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 1


def plugin_table(plugins: dict[str, Any]) -> Table | None:
    """Which plugins were loaded, and why others were not."""
    columns = ("distribution", "version", "status", "problem")
    found = [p for p in as_list(plugins.get("plugins")) if isinstance(p, dict)]
    rows = tuple(
        Row(
            plain(p.get("name")),
            tuple("" if p.get(c) is None else plain(p[c]) for c in columns),
            flagged=bool(p.get("problem")),
        )
        for p in found[:MAX_ROWS]
    )
    note = f"{len(found) - MAX_ROWS:,} further plugins are not shown." if len(found) > MAX_ROWS else ""
    return Table("Plugins", columns, rows, note) if rows else None


def environment_table(plugins: dict[str, Any]) -> Table | None:
    """Versions and hardware."""
    environment = {k: v for k, v in plugins.items() if k != "plugins"}
    inner = environment.pop("environment", {})
    whole = {**(inner if isinstance(inner, dict) else {}), **environment}
    table = _section("Environment", ("value",), [whole], "")
    return table if table.rows else None


def recipe_text(recipe: dict[str, Any]) -> str:
    """The recipe as indented JSON."""
    return shortened(json.dumps(recipe, indent=2, ensure_ascii=False), 200_000) if recipe else ""
