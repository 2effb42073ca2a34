"""Collects what the page shows and fills the template."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from alignkit.report import tables
from alignkit.report.charts import Chart, arrange
from alignkit.report.headline import cards, simulated_notes
from alignkit.report.plots import draw
from alignkit.report.read import RunFiles, Samples, read_run, read_samples
from alignkit.report.series import Curves, read_curves
from alignkit.report.wording import duration, number, plain, point_in_time, shortened

HERE = Path(__file__).parent
SAMPLE_KEYS = ("prompt", "before", "after", "before_score", "after_score")


@dataclass(frozen=True)
class SampleRow:
    """Two answers to one prompt, ready to print. `better` is "before", "after" or empty."""

    prompt: str
    before: str
    after: str
    before_score: str
    after_score: str
    better: str
    further: tuple[tuple[str, str], ...]


def render(folder: Path) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("template.html.jinja").render(collect(folder))
    # Model output may hold halves of surrogate pairs (JSON can write them), which no UTF-8 file can.
    return page.encode("utf-8", "replace").decode("utf-8")


def collect(folder: Path) -> dict[str, Any]:
    """Everything the template prints, by name."""
    run = read_run(folder)
    curves, samples = read_curves(run), read_samples(run)
    summary, notes = run.summary, simulated_notes(run.summary)
    gallery = arrange(run, curves, simulated=bool(notes))
    numbers = iter(range(1, 1000))
    drawn: dict[int, Markup] = {id(c): draw(c, next(numbers)) for step in gallery.steps for c in step.charts}

    def drawing(chart: Chart) -> Markup:
        return drawn[id(chart)]

    sections, about_data = tables.sections(summary), _about_data(run)
    return {
        "name": shortened(plain(summary.get("name") or run.recipe.get("name") or folder.name), 200),
        "facts": _facts(run),
        "unfinished": _unfinished(run),
        "missing": run.missing + _missing(curves, samples),
        "simulated": notes,
        "cards": cards(summary),
        "at_a_glance": tables.rounds_at_a_glance(summary),
        "gallery": gallery,
        "drawing": drawing,
        "samples": samples,
        "sample_rows": [_sample(row) for row in samples.rows] if samples else [],
        "compared": _compared(run, samples),
        "data": [t for t in sections if t.caption in about_data],
        "sections": [t for t in sections if t.caption not in about_data],
        "times": tables.times(run),
        "plugins": tables.plugin_table(run.plugins),
        "environment": tables.environment_table(run.plugins),
        "recipe": tables.recipe_text(run.recipe),
    }


def _about_data(run: RunFiles) -> set[str]:
    """Sections with an entry per step: what steps read and made. What a model measured has its figures right there."""
    ids = {id for _, id in run.planned} | {step.id for step in run.steps}
    sections = {name: value for name, value in run.summary.items() if isinstance(value, dict) and value}
    return {tables.caption(name) for name, value in sections.items() if value.keys() <= ids}


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    seconds = run.timing.get("seconds")
    if seconds is None:
        known = [s.seconds for s in run.steps if s.finished and s.seconds is not None]
        seconds = sum(known) if known else None
    found = [
        ("seed", run.summary.get("seed", run.recipe.get("seed"))),
        ("rounds", run.recipe.get("rounds")),
        ("started", point_in_time(run.plugins.get("started"))),
    ]
    facts = [(name, plain(value)) for name, value in found if value is not None]
    return facts + ([("time", duration(seconds))] if seconds is not None else [])


def _unfinished(run: RunFiles) -> str:
    """One sentence on a run that did not reach its end; empty for one that did."""
    done = {(s.round, s.id) for s in run.steps if s.finished}
    planned = run.planned
    begun = [s for s in run.steps if s.status == "started"]
    if planned and set(planned) <= done:
        return ""
    if not planned and not begun:
        return "" if done else "No step has started."
    progress = f"{len(done & set(planned))} of {len(planned)} steps are done." if planned else ""
    stopped = ""
    if begun:
        stopped = f"Step {begun[-1].id} of round {begun[-1].round} was started and did not finish."
    return f"{progress} {stopped}".strip() or "Its end is not recorded."


def _missing(curves: Curves, samples: Samples | None) -> list[str]:
    found = [] if curves.rows else ["There are no metrics, so there are no curves."]
    return found + ([] if samples else ["There are no samples: no evaluation has written samples.jsonl."])


def _sample(row: dict[str, Any]) -> SampleRow:
    before, after = row.get("before_score"), row.get("after_score")
    better = ""
    if isinstance(before, int | float) and isinstance(after, int | float) and before != after:
        better = "after" if after > before else "before"
    further = [(shortened(k, 80), plain(v)) for k, v in row.items() if k not in SAMPLE_KEYS and v is not None]
    # Most tokenizers begin a continuation with a space, which would look like a mistake of the page.
    texts = [plain(row.get(key, "")).removeprefix(" ") for key in ("prompt", "before", "after")]
    scores = number(before, 3), number(after, 3)
    return SampleRow(texts[0], texts[1], texts[2], *scores, better, tuple(further[:8]))


def _compared(run: RunFiles, samples: Samples | None) -> tuple[str, str]:
    """Headings of the two sample columns, with the steps the policies come from if the recipe says so."""
    options = run.options(samples.step.id) if samples else {}
    names = [options.get(key) for key in ("against", "policy")]
    words = [f" ({shortened(n, 60)})" if isinstance(n, str) else "" for n in names]
    return f"Before{words[0]}", f"After{words[1]}"
