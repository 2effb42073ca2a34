"""The table in the terminal and the plot."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from alignkit_kernels.bench.run import Row

MIB = 2**20
# Bars are on a logarithmic axis where the longest is more than this many times the shortest.
LINEAR_RANGE = 30


COLUMNS = (("p50 ms", 9), ("p20-p80", 15), ("x eager", 7), ("of floor", 8), ("peak MiB", 10), ("error", 8))


def print_table(console: Console, rows: Sequence[Row], title: str) -> None:
    """A table for each op, all with the same columns; 80 characters wide at most."""
    console.print(title, highlight=False)
    for op in dict.fromkeys(row.op for row in rows):
        table = Table(box=None, title=op, title_justify="left", title_style="bold", pad_edge=False)
        table.add_column("", width=12, no_wrap=True)
        for name, width in COLUMNS:
            table.add_column(name, justify="right", width=width, no_wrap=True)
        for row in rows:
            if row.op == op:
                table.add_row(*_cells(row))
        console.print(table)
        console.print()


def _cells(row: Row) -> list[str]:
    name = row.impl
    if row.p50_ms is None or row.p20_ms is None or row.p80_ms is None or row.peak_bytes is None:
        return [name, "failed"]
    return [
        name,
        _number(row.p50_ms),
        f"{_number(row.p20_ms)}-{_number(row.p80_ms)}",
        "" if row.speedup is None else f"{row.speedup:.2f}",
        "" if row.floor_ms is None else f"{row.floor_ms / row.p50_ms:.0%}",
        f"{row.peak_bytes / MIB:,.1f}",
        "" if row.error is None else f"{row.error:.1e}",
    ]


def _number(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 1000 else f"{milliseconds:.3g}"


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Time (with the floor) and peak memory of every op and implementation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row.p50_ms is not None]
    names = list(dict.fromkeys(row.impl for row in rows))
    groups = list(dict.fromkeys((row.op, row.dtype, row.T, row.H, row.V, row.mask) for row in rows))
    several = len({group[1:] for group in groups}) > 1
    labels = [
        op + (f"\n{dtype} T={t} H={h} V={v}" + (f" mask {mask:g}" if mask else "") if several else "")
        for op, dtype, t, h, v, mask in groups
    ]
    figure, (time, memory) = plt.subplots(1, 2, figsize=(13, 1.6 + 0.24 * len(rows) + 0.2 * len(groups)), sharey=True)
    height = 0.8 / max(1, len(names))
    for k, name in enumerate(names):
        places, middle, low, high, peaks = [], [], [], [], []
        for g, group in enumerate(groups):
            for row in rows:
                if (row.op, row.dtype, row.T, row.H, row.V, row.mask) == group and row.impl == name:
                    assert row.p50_ms is not None
                    assert row.p20_ms is not None
                    assert row.p80_ms is not None
                    places.append(g + (k - (len(names) - 1) / 2) * height)
                    middle.append(row.p50_ms)
                    low.append(row.p50_ms - row.p20_ms)
                    high.append(row.p80_ms - row.p50_ms)
                    peaks.append(max(row.peak_bytes or 0, 1024) / MIB)
        time.barh(places, middle, height * 0.9, xerr=[low, high], label=name, error_kw={"elinewidth": 0.8})
        memory.barh(places, peaks, height * 0.9, label=name)
    for g, group in enumerate(groups):
        floor = next(r.floor_ms for r in rows if (r.op, r.dtype, r.T, r.H, r.V, r.mask) == group)
        if floor is not None:
            label = "floor" if g == 0 else None
            time.plot([floor, floor], [g - 0.45, g + 0.45], color="black", linewidth=1.2, label=label)
    time.set_yticks(range(len(groups)), labels)
    time.invert_yaxis()
    shown = [(row.p50_ms or 0.0, max(row.peak_bytes or 0, 1024)) for row in rows]
    for panel, values in zip((time, memory), zip(*shown, strict=True), strict=True):
        if max(values) > LINEAR_RANGE * min(values):  # else bars from 0 on, whose lengths compare
            panel.set_xscale("log")
    time.set_xlabel("milliseconds (median; line from 20th to 80th percentile)")
    memory.set_xlabel("peak memory over the inputs, MiB")
    time.grid(axis="x", linewidth=0.3)
    memory.grid(axis="x", linewidth=0.3)
    handles, texts = time.get_legend_handles_labels()
    figure.legend(handles, texts, loc="lower center", ncols=len(texts), frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
