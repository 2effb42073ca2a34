"""A plan for people and for programs."""

from collections.abc import Iterator, Sequence
from typing import Any

from alignkit.plan.machine import Machine
from alignkit.plan.steps import StepPlan
from alignkit.plan.work import Bounds, bounds, total
from alignkit.preflight.memory import in_bytes


def as_data(plan: StepPlan, machine: Machine, utilisation: float) -> dict[str, Any]:
    """One step. Seconds are lower bounds; keys whose machine figure is not known are left out."""
    found = {work.name: bounds(work, machine, utilisation) for work in plan.work}
    seconds = total(found.values())
    data: dict[str, Any] = {
        "id": plan.id,
        "step": plan.step,
        "per": plan.per,
        "units": plan.units,
        "assumed": list(plan.assumed),
        "memory_per_process": plan.memory,
        "parts": {part.name: part.bytes for part in plan.parts},
        "work": [
            {
                "name": work.name,
                "flops": work.flops,
                "read_per_process": work.read,
                "exchanged_per_process": work.exchanged,
                **_timed(found[work.name]),
            }
            for work in plan.work
        ],
    }
    if machine.memory is not None:
        data |= {"device_memory": machine.memory, "fits": plan.memory <= machine.memory}
    if seconds:
        data |= {"seconds": seconds, "bottleneck": max(found, key=lambda name: found[name].seconds)}
        data |= {"bound_by": found[data["bottleneck"]].limit}
    return data


def _timed(found: Bounds) -> dict[str, Any]:
    if not found.seconds:
        return {}
    times = {"compute": found.compute, "memory": found.memory, "network": found.network}
    return {"seconds": found.seconds, "bound_by": found.limit, "seconds_by": times}


def lines(
    plans: Sequence[dict[str, Any]], machine: Machine, utilisation: float, others: Sequence[str]
) -> Iterator[str]:
    """The plan of all steps as text."""
    yield _head(machine, utilisation)
    for plan in plans:
        yield ""
        yield f"{plan['id']} ({plan['step']}), {plan['per']}: {'; '.join(plan['assumed'])}"
        yield from _memory(plan)
        yield from _work(plan)
    if others:
        yield f"\nnot counted, without a model of their own to train or sample: {', '.join(others)}"


def _head(machine: Machine, utilisation: float) -> str:
    """What it is computed for."""
    units = {"memory": "B", "flops": "FLOP/s", "bandwidth": "B/s memory", "interconnect": "B/s to other processes"}
    known = [f"{_short(getattr(machine, name))}{unit}" for name, unit in units.items() if getattr(machine, name)]
    share = f", {utilisation:.0%} of the operations reached" if machine.flops else ""
    each = f", each with {', '.join(known)}{share}" if known else ""
    number = f"{machine.processes} process{'es' * (machine.processes != 1)}"
    return f"computed, not measured, for {number}{each}; times are lower bounds"


def _memory(plan: dict[str, Any]) -> Iterator[str]:
    room = f" of {in_bytes(int(plan['device_memory']))}" if "device_memory" in plan else ""
    fits = "" if "fits" not in plan else ": fits" if plan["fits"] else ": DOES NOT FIT"
    yield f"  memory of a process   {in_bytes(plan['memory_per_process'])}{room}{fits}"
    for name, size in plan["parts"].items():
        yield f"    {name:<36} {in_bytes(size):>10}"


def _work(plan: dict[str, Any]) -> Iterator[str]:
    yield f"  {'work':<24} {'FLOP':>9} {'read':>10} {'exchanged':>10}" + (
        f" {'at least':>10}  bound by" if "seconds" in plan else ""
    )
    for work in plan["work"]:
        read, sent = (in_bytes(int(work[f"{kind}_per_process"])) for kind in ("read", "exchanged"))
        time = f" {_time(work['seconds']):>10}  {work['bound_by']}" if "seconds" in work else ""
        yield f"    {work['name']:<22} {work['flops']:>9.2e} {read:>10} {sent:>10}{time}"
    if "seconds" in plan:
        whole = f"; {plan['units']} of them {_time(plan['units'] * plan['seconds'])}" if plan["units"] else ""
        most = f"most of it {plan['bottleneck']}, bound by {plan['bound_by']}"
        yield f"  at least {_time(plan['seconds'])}{whole}; {most}"


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _short(value: float) -> str:
    """`80 G` for 80e9."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} "
