"""The few numbers a reader wants first, found in the summary by what they are, whichever step gave them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from alignkit.report.read import as_list
from alignkit.report.series import LARGEST
from alignkit.report.wording import number, percent, plain, signed

MAX_CARDS = 12
# The key under which a summary, or a section of it, says what in it is simulated.
SIMULATION = "simulation"
SIMULATED = "Parts of this run are simulated: the summary says so without naming them."


@dataclass(frozen=True)
class Gauge:
    """A value on a scale from 0 to 100 %: `low` to `high` is its interval, `mark` what to compare with."""

    value: float
    low: float | None
    high: float | None
    mark: float
    mark_label: str

    @property
    def label_at(self) -> float:
        """Where the mark's label is centred: it must not cover the ends' labels."""
        return min(max(self.mark, 35.0), 65.0)


@dataclass(frozen=True)
class Card:
    """One headline number."""

    title: str
    value: str
    details: tuple[str, ...] = ()
    simulated: bool = False
    gauge: Gauge | None = None

    @property
    def name(self) -> str:
        """The title where there is no room for a tag."""
        return f"{self.title} (simulated)" if self.simulated else self.title


def simulated_notes(summary: dict[str, Any]) -> list[str]:
    """What the summary calls simulated, at its top, in a section or in a round, each text once."""
    found: list[str] = []
    for part in (summary, *(r for r in as_list(summary.get("rounds")) if isinstance(r, dict))):
        for section in (part, *(v for v in part.values() if isinstance(v, dict))):
            value = section.get(SIMULATION)
            found += [] if not value else [SIMULATED] if value is True else [plain(value)]
    return list(dict.fromkeys(found))


def cards(summary: dict[str, Any]) -> list[Card]:
    """Headline cards of a summary, or of one of its rounds. What is not measured has no card."""
    sections = {k: v for k, v in summary.items() if isinstance(v, dict)}
    simulated = bool(summary.get(SIMULATION))
    found = [(rank, k, card) for k, v in sections.items() for rank, card in _of_section(v, simulated)]
    found.sort(key=lambda item: item[0])
    titles = [card.title for _, _, card in found]
    shown = []
    for _, name, card in found[:MAX_CARDS]:
        twice = titles.count(card.title) > 1
        title = f"{card.title} ({name})" if twice else card.title
        shown.append(Card(title, card.value, card.details, card.simulated, card.gauge))
    return shown


def _of_section(section: dict[str, Any], simulated: bool) -> Iterator[tuple[int, Card]]:
    """(rank, card) of what one section of the summary reports."""
    simulated = simulated or bool(section.get(SIMULATION))
    if "accuracy_longest_baseline" in section:
        yield 0, _accuracy(section)
    if "reward_end" in section:
        details = "what the policy is trained to raise"
        yield 1, Card("Learned reward", *_change(section, "reward", details))
    if "true_reward_end" in section:
        details = "what the run wants; the policy is not trained on it"
        yield 2, Card("True reward", *_change(section, "true_reward", details), simulated)
    if section.get("win_rate") is not None:
        yield 3, _win_rate(section["win_rate"])
    for step in section.values():
        yield from ((5, card) for card in (_agreement(step) if isinstance(step, dict) else ()))
    if "kl" in section:
        details = "nats; how far the policy has moved"
        yield 4, Card("KL to the reference policy", number(section["kl"], 3), (details,))


def _accuracy(section: dict[str, Any]) -> Card:
    accuracy, baseline = section.get("accuracy"), section.get("accuracy_longest_baseline")
    details, gauge = [f"always picking the longest answer: {percent(baseline)}"], None
    if _is_share(accuracy) and _is_share(baseline):
        details.append(f"{signed(round(100 * (accuracy - baseline), 1))} percentage points")
        gauge = Gauge(100 * accuracy, None, None, 100 * baseline, "longest")
    if _is_number(section.get("heldout_pairs")):
        details.append(f"{number(section['heldout_pairs'])} held-out pairs")
    if "accuracy_of_last_round" in section:
        details.append(f"the reward model of the round before: {percent(section['accuracy_of_last_round'])}")
    if "accuracy_before" in section:
        # A policy that learned from preferences is its own reward model, and was one before.
        details.insert(0, f"before: {percent(section['accuracy_before'])}")
        return Card("Accuracy of the policy's implicit reward", percent(accuracy), tuple(details), gauge=gauge)
    return Card("Reward-model accuracy", percent(accuracy), tuple(details), gauge=gauge)


def _agreement(step: dict[str, Any]) -> Iterator[Card]:
    """How often two annotators of one question said the same, where a question had two."""
    found = step.get("agreement")
    for kind, figures in found.items() if isinstance(found, dict) else ():
        if isinstance(figures, dict) and _is_share(figures.get("raw")):
            details = [f"{number(figures.get('items'))} items, {number(figures.get('annotators'))} annotators"]
            if _is_number(figures.get("alpha")):
                details.insert(0, f"Krippendorff's alpha {number(figures['alpha'], 3)}")
            yield Card(f"Annotators agree ({kind})", percent(figures["raw"]), tuple(details))


def _change(section: dict[str, Any], name: str, details: str) -> tuple[str, tuple[str, ...]]:
    start, end = section.get(f"{name}_start"), section.get(f"{name}_end")
    value = f"{number(start, 3)} → {number(end, 3)}"
    if _is_number(start) and _is_number(end):
        return value, (f"change {signed(end - start)}", details)
    return value, (details,)


def _win_rate(value: Any) -> Card:
    known = value if isinstance(value, dict) else {"mean": value}
    mean, low, high, n = (known.get(k) for k in ("mean", "low", "high", "n"))
    details, gauge = ["50 % is as good as before"], None
    if _is_share(low) and _is_share(high):
        details.insert(0, f"95 % interval {percent(low)} to {percent(high)}")
    if n is not None:
        details.append(f"{number(n)} prompts")
    if _is_share(mean):
        low, high = (100 * low, 100 * high) if _is_share(low) and _is_share(high) else (None, None)
        gauge = Gauge(100 * mean, low, high, 50.0, "as before")
    return Card("Win rate against the policy before", percent(mean), tuple(details), gauge=gauge)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_share(value: Any) -> TypeGuard[float]:
    return _is_number(value) and 0 <= value <= 1
