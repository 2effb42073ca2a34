"""Metric names in plain words, and numbers, times and model texts as a reader wants them."""

import json
import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

TEXT_SHOWN = 4000


class Wording(NamedTuple):
    """How a metric is called on the page, the unit of its axis, and its place among the charts of a step."""

    title: str
    unit: str
    rank: int


def _table(*rows: tuple[str, str, str]) -> dict[str, Wording]:
    table: dict[str, Wording] = {}
    for rank, (names, title, unit) in enumerate(rows):
        table |= dict.fromkeys(names.split(), Wording(title, unit, rank))
    return table


# The order is the order on the page. Several names for one thing: plugins follow different habits.
KNOWN = _table(
    ("reward reward_mean mean_reward score scores score_mean", "Reward", "mean reward per completion"),
    ("true_reward true_reward_mean", "True reward", "mean true reward per completion"),
    ("kl kl_reference ref_kl kl_ref", "KL to the reference policy", "nats per completion"),
    ("objective", "Reward minus the KL penalty", "mean per completion"),
    ("reward_std", "Spread of the reward", "standard deviation in a batch"),
    ("loss", "Loss", "nats"),
    ("accuracy", "Accuracy", "share of pairs ranked right"),
    ("margin reward_margin", "Reward margin", "chosen minus rejected"),
    ("reward_chosen", "Implicit reward, chosen", "mean per completion"),
    ("reward_rejected", "Implicit reward, rejected", "mean per completion"),
    ("logp_chosen", "Log-prob, chosen", "nats per completion"),
    ("logp_rejected", "Log-prob, rejected", "nats per completion"),
    ("entropy", "Entropy of the policy", "nats per token"),
    ("clip_fraction clipfrac clip_frac", "Clip fraction", "share of tokens clipped"),
    ("approx_kl policy_kl update_kl", "KL of one update", "nats per token"),
    ("policy_loss", "Policy loss", "loss"),
    ("value_loss", "Value loss", "squared error"),
    ("value_clip_fraction value_clipfrac", "Value clip fraction", "share of tokens clipped"),
    ("explained_variance", "Explained variance of the critic", "share, 1 is perfect"),
    ("completion_length length mean_length length_mean response_length", "Completion length", "tokens"),
    ("missing_eos missing_eos_fraction no_eos missing_stop", "Completions without an end", "share"),
    ("distinct_2", "Different word pairs", "share of all word pairs"),
    ("kl_coefficient kl_coef", "KL coefficient", "weight of the KL penalty"),
    ("ratio_error", "Largest change of a token's probability ratio", "distance from 1"),
    ("sampler_mismatch", "Sampler against trainer", "largest log-prob difference"),
    ("ratio ratio_mean", "Probability ratio, new to old policy", "mean ratio"),
    ("advantage advantage_mean", "Advantage", "mean advantage"),
    ("return return_mean", "Return", "mean return"),
    ("lr learning_rate", "Learning rate", "step size"),
    ("grad_norm gradient_norm", "Gradient norm", "L2 norm before clipping"),
    ("tokens_per_second", "Speed", "tokens per second"),
    ("seconds step_seconds", "Time", "seconds"),
)
HELD_OUT = ("heldout_", "held_out_", "eval_", "validation_", "valid_")


def base_metric(name: str) -> tuple[str, bool]:
    """The metric without its held-out prefix, and whether it had one: both are drawn in one chart."""
    for prefix in HELD_OUT:
        if name.startswith(prefix) and len(name) > len(prefix):
            return name[len(prefix) :], True
    return name, False


def wording(metric: str) -> Wording:
    """Plain words for a metric; an unknown one keeps its name."""
    known = KNOWN.get(metric.rpartition("/")[2])
    if known:
        return known
    plain = shortened(metric.replace("_", " ").strip() or "unnamed", 80)
    return Wording(plain[:1].upper() + plain[1:], "value", len(KNOWN))


def number(value: Any, digits: int = 4) -> str:
    """`digits` significant digits; a dash for what is no finite number."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        # str() of an integer with thousands of digits is refused by Python.
        return f"{value:,}".replace("-", "−") if abs(value) < 10**30 else "more than 10^30"
    if not isinstance(value, float) or not math.isfinite(value):
        return "–"
    whole = abs(value) >= 1e4 or value.is_integer()
    text = f"{value:,.0f}" if whole and abs(value) < 1e15 else f"{value:.{digits}g}"
    return text.replace("-", "−")


def percent(value: Any) -> str:
    """A share as a percentage."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return f"{100 * value:.1f} %".replace("-", "−") if good else "–"


def signed(value: float) -> str:
    """A difference, with its sign."""
    return ("+" if value >= 0 else "") + number(float(value), 3)


def duration(seconds: Any) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def point_in_time(value: Any) -> Any:
    """An ISO time as `2026-03-01 14:05 UTC`; anything else unchanged."""
    try:
        return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (TypeError, ValueError, OverflowError):
        return value


def shortened(text: str, limit: int = TEXT_SHOWN) -> str:
    """`text`, cut at `limit` characters with a note of how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def plain(value: Any) -> str:
    """Any JSON value as text for a table cell or a sample; conversations become `role: content` lines."""
    if isinstance(value, str):
        return shortened(value)
    if value is None or isinstance(value, bool | int | float):
        return number(value)
    if isinstance(value, list) and value and all(isinstance(m, dict) and "content" in m for m in value):
        return shortened("\n".join(f"{m.get('role', '')}: {m['content']}" for m in value))
    return shortened(json.dumps(value, ensure_ascii=False))
