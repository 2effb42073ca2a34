"""Reward against KL (the frontier that no policy can pass, the optima, where each variant ended), and the table."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from world import World

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def frontier(world: World, largest: float) -> tuple[list[float], list[float]]:
    """KL and reward of the optima of many betas, up to a KL."""
    points = [world.reward_and_kl(world.optimum(beta)) for beta in np.geomspace(50, 0.02, 200)]
    kept = [(kl, r) for r, kl in points if kl <= largest]
    return [kl for kl, _ in kept], [r for _, r in kept]


def draw(world: World, rows: list[dict[str, Any]], path: Path) -> None:
    """One picture: filled marks are the unbiased settings, open ones those as published."""
    figure, axes = plt.subplots(figsize=(9, 6))
    largest = 1.05 * max(row["kl"] for row in rows)
    axes.plot(*frontier(world, largest), color="black", linewidth=1.5, label="frontier: best reward at this KL")
    for target in sorted({row["target_kl"] for row in rows}):
        r, kl = world.reward_and_kl(world.optimum(world.beta_for(target)))
        axes.plot([kl], [r], marker="*", markersize=16, color="black", linestyle="")
    colors = plt.get_cmap("tab20").colors
    for n, name in enumerate(dict.fromkeys(row["variant"] for row in rows)):
        mine = [row for row in rows if row["variant"] == name]
        color = colors[n % len(colors)]
        axes.plot(
            [row["kl"] for row in mine],
            [row["reward"] for row in mine],
            marker="o" if mine[0]["unbiased"] else "s",
            markerfacecolor=color if mine[0]["unbiased"] else "none",
            color=color,
            linestyle="",
            label=name,
        )
    axes.set_xlabel("KL to the reference, nats (exact, mean over prompts)")
    axes.set_ylabel("mean reward (exact)")
    axes.set_title(
        "Stars: the optimum for each beta. Filled: unbiased settings. Open: as published, biased.", fontsize=10
    )
    axes.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line per variant, for each target KL the ratio and the frontier gap, worst seed."""
    targets = sorted({row["target_kl"] for row in rows})
    lines = ["| variant | aims at the optimum | " + " | ".join(f"KL* {t:g}: ratio, gap, KL" for t in targets) + " |"]
    lines.append("|---" * (2 + len(targets)) + "|")
    for name in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == name]
        cells = []
        for target in targets:
            seeds = [row for row in mine if row["target_kl"] == target]
            ratio, gap = min(row["ratio"] for row in seeds), max(row["frontier_gap"] for row in seeds)
            kl = sum(row["kl"] for row in seeds) / len(seeds)
            cells.append(f"{ratio:.3f}, {gap:.3f}, {kl:.2f}")
        lines.append(f"| {name} | {'yes' if mine[0]['unbiased'] else 'no'} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
