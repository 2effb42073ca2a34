"""Charts as inline SVG in the colours of the page's CSS variables: one drawing fits light and dark."""

import io
import math
import re
from typing import Any

from markupsafe import Markup

from alignkit.report.charts import Chart, Line

# Colours that stand in for CSS variables while matplotlib draws.
INK, GRID = "#0a0b01", "#0a0b02"
SERIES = tuple(f"#0a0c{i:02d}" for i in range(1, 9))
VARIABLES = {INK: "var(--muted)", GRID: "var(--line)", **{c: f"var(--c{i})" for i, c in enumerate(SERIES, 1)}}
MARKED_UP_TO = 30
STEPS = [1, 2, 2.5, 5, 10]

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "alignkit",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.limits": (-3, 4),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "grid.linewidth": 0.8,
    "font.size": 11.0,
    "axes.labelsize": 11.0,
    "axes.titlecolor": INK,
    "lines.linewidth": 1.7,
    "lines.markersize": 3.5,
}


def draw(chart: Chart, number: int) -> Markup:
    """SVG of one chart. It holds no text from the run's files, only numbers and this package's own labels.

    `number` keeps the ids inside the drawing apart from those of the page's other drawings.
    """
    from matplotlib import style, ticker
    from matplotlib.figure import Figure

    # `Figure` without pyplot needs no window system and leaves a caller's own figures and backend alone.
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(4.6, 2.65), layout="constrained")
        axes = figure.subplots()
        for line in chart.lines:
            _line(axes, line)
        axes.set_xlabel(chart.x_label)
        # Above the axis instead of beside it: read without turning the head, and never short of room.
        axes.set_title(chart.words.unit, loc="left", fontsize=STYLE["font.size"], pad=7)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=5, integer=True, steps=STEPS))
        axes.yaxis.set_major_locator(ticker.MaxNLocator(nbins=5, steps=STEPS))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ticker.FuncFormatter(_tick))
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return Markup(for_page(out.getvalue(), f"c{number}-"))


def _line(axes: Any, line: Line) -> None:
    series, color = line.series, SERIES[line.color % len(SERIES)]
    x = [bucket.at for bucket in series.buckets]
    y = [bucket.mean for bucket in series.buckets]
    if series.width > 1:
        some = [bucket for bucket in series.buckets if bucket.finite]
        low, high = [b.low for b in some], [b.high for b in some]
        axes.fill_between([b.at for b in some], low, high, color=color, alpha=0.25, linewidth=0.8)
    marked = list(range(len(x))) if len(x) <= MARKED_UP_TO else _alone(y)
    axes.plot(x, y, color=color, linestyle="--" if line.held_out else "-", marker="o", markevery=marked)


def _alone(values: list[float]) -> list[int]:
    """Positions of values between two gaps, which no line would show."""
    gap = [True, *map(math.isnan, values), True]
    return [i for i in range(len(values)) if not gap[i + 1] and gap[i] and gap[i + 2]]


def _tick(value: float, _: int) -> str:
    # Six digits hide floating-point noise. The usual formatter puts "1e-5" above the axis, easily overlooked.
    text = f"{value:,.12g}" if abs(value) >= 1e4 else f"{value:.6g}"
    return text.replace("-", "−")


def for_page(svg: str, prefix: str) -> str:
    """The drawing as an element of an HTML page: no prologue, no leaking style sheet, ids of its own."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true" focusable="false">', svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r" ?font-family: [^;\"]*;?", "", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", svg)
    svg = re.sub(r' d="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]).replace("\n", ""), svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, variable)
    return re.sub(r"\n\s*", "\n", svg)
