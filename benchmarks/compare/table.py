"""From measured processes to rows {task, metric, ours, peer, peer_setting, ratio, target}: arithmetic alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

# Parts of a step that are the model's own work; the rest is what an engine adds.
MODEL_WORK = (
    "forward", "loss", "backward", "optimizer", "rollout", "score", "old log-probs", "reference log-probs", "values",
)  # fmt: skip
INITIAL, FINAL = "initial loss", "final loss"
# Relative; first losses differ by rounding alone, and bfloat16 rounds a reward's score to 8 bits.
AGREE = {INITIAL: {"float32": 1e-3, "bfloat16": 5e-3}, FINAL: {"float32": 0.02, "bfloat16": 0.02}}


@dataclass(frozen=True)
class Measured:
    """One process."""

    rate: float  # tokens or samples per second
    cpu_rate: float  # per second of the processor, which a busy machine changes less
    peak_mb: float
    above_modules_mb: float
    losses: tuple[float, ...]
    overhead: float
    parts: dict[str, float]  # CPU seconds of a step, means behind the warm-up
    seconds: float  # of a step, of the processor too
    figures: tuple[dict[str, float], dict[str, float]]  # that the trainer logged with its first and its last step


def measured(report: Mapping[str, Any], amounts: Sequence[int], warm_up: int, whole: bool) -> Measured:
    """What one process did, `amounts` being the tokens or samples of each step.

    The rate is the median over the steps behind the warm-up. With `whole` it is everything over the time from the first
    forward pass to the last step: what precedes the first step belongs to it, as the reference's log-probs of DPO do.
    Raises ValueError if another number of steps was done than planned.
    """
    steps = report["steps"]
    if len(steps) != len(amounts):
        raise ValueError(f"{len(steps)} steps were measured and {len(amounts)} planned")
    late = range(min(warm_up, len(steps) - 1), len(steps))
    rate, cpu_rate = (median(amounts[i] / steps[i][name] for i in late) for name in ("seconds", "cpu_seconds"))
    if whole:
        rate, cpu_rate = (sum(amounts) / seconds for seconds in report["whole_seconds"])
    seconds = sum(steps[i]["seconds"] for i in late)
    names = {name for i in late for name in steps[i]["cpu_parts"]}
    parts = {name: sum(steps[i]["cpu_parts"].get(name, 0.0) for i in late) / len(late) for name in sorted(names)}
    work = sum(steps[i]["parts"].get(name, 0.0) for i in late for name in MODEL_WORK)
    return Measured(
        rate=rate,
        cpu_rate=cpu_rate,
        peak_mb=report["peak_mb"],
        above_modules_mb=report["peak_mb"] - report["modules_mb"],
        losses=tuple(s["figures"]["loss"] for s in steps if "loss" in s["figures"]),
        overhead=1 - work / seconds,
        parts=parts,
        seconds=sum(steps[i]["cpu_seconds"] for i in late) / len(late),
        figures=(steps[0]["figures"], steps[-1]["figures"]),
    )


def row(
    task: str, metric: str, ours: Sequence[float], peer: Sequence[float], peer_setting: str, target: str = ""
) -> dict[str, Any]:
    """Medians over repeats and their ratio; `range` are the smallest and largest ratio of one repeat.

    `target` is about the ratio: `>= 1.6`, `<= 0.8`, or `1 ± 0.02`; empty if there is none. Where there is no peer it is
    about our figure itself.
    """
    mine, other = median(ours), median(peer) if peer else None
    ratio = None if other is None else mine / other
    ratios = [a / b for a, b in zip(ours, peer, strict=True)] if peer else []
    judged = mine if ratio is None else ratio
    return {
        "task": task,
        "metric": metric,
        "ours": round(mine, 5),
        "peer": None if other is None else round(other, 5),
        "peer_setting": peer_setting,
        "ratio": None if ratio is None else round(ratio, 4),
        "range": [round(min(ratios), 4), round(max(ratios), 4)] if ratios else None,
        "target": target,
        "met": met(judged, target) if target else None,
    }


def met(value: float, target: str) -> bool:
    """Whether a figure keeps to a target. Raises ValueError for one that is no target."""
    sign, _, number = target.partition(" ")
    if sign == ">=":
        return value >= float(number)
    if sign == "<=":
        return value <= float(number)
    if sign == "<":
        return value < float(number)
    middle, plus_minus, width = target.partition(" ± ")
    if not plus_minus:
        raise ValueError(f"{target!r} is no target")
    return abs(value - float(middle)) <= float(width)


def rows_of(
    task: str,
    metric: str,
    ours: Sequence[Measured],
    peer: Sequence[Measured],
    peer_setting: str,
    precision: str,
    faster: float | None,
    memory: float | None,
) -> list[dict[str, Any]]:
    """All rows about one setting of the peer."""

    def both(name: str) -> tuple[list[float], list[float]]:
        return [getattr(m, name) for m in ours], [getattr(m, name) for m in peer]

    target = f">= {faster}" if faster else ""
    rows = [row(task, metric, *both("rate"), peer_setting, target)]
    rows.append(row(task, metric.replace("/s", "/CPU-s"), *both("cpu_rate"), peer_setting, target))
    peak = f"<= {memory}" if memory else ""
    rows.append(row(task, "peak RSS MB", *both("peak_mb"), peer_setting, peak))
    rows.append(row(task, "peak above modules MB", *both("above_modules_mb"), peer_setting))
    if ours[0].losses and peer[0].losses and metric == "tokens/s":
        for name, index in ((INITIAL, 0), (FINAL, -1)):
            mine, other = ([m.losses[index] for m in side] for side in (ours, peer))
            rows.append(row(task, name, mine, other, peer_setting, f"1 ± {AGREE[name][precision]}"))
    return rows


def profile(runs: Sequence[Measured]) -> dict[str, float]:
    """CPU seconds of a step by part, medians over repeats; `other` is what no part was open for."""
    names = sorted({name for m in runs for name in m.parts})
    found = {name: median(m.parts.get(name, 0.0) for m in runs) for name in names}
    whole = median(m.seconds for m in runs)
    return {**{k: round(v, 4) for k, v in found.items()}, "other": round(whole - sum(found.values()), 4), "step": whole}
