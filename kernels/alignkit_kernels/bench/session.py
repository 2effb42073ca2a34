"""One call of `alignkit bench`: what to run, in which order, and what is written."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from alignkit.device import choose_device
from alignkit.engine.environment import environment
from alignkit.errors import UserError
from alignkit.files import write_json
from alignkit.manager import PluginManager
from alignkit.ops import EAGER, OPS
from alignkit_kernels.bench.cases import Setting
from alignkit_kernels.bench.measure import Ceilings, ceilings
from alignkit_kernels.bench.report import draw, print_table
from alignkit_kernels.bench.run import Row, implementations, measure
from alignkit_kernels.bench.shapes import DEFAULTS, Shape, model_shape, parse_shape

PLOTS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Request:
    """The options of the command, as they were given."""

    ops: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    model: Path | None = None
    masked: float = 0.0
    dtypes: tuple[str, ...] = ()
    impls: tuple[str, ...] = ()
    forward: bool = False
    seconds: float = 1.0
    device: str = "auto"
    seed: int = 0


def run_session(request: Request, json_file: Path | None, plot: Path | None) -> list[Row]:
    """Measure, print, write. Raises UserError before anything is measured for what cannot be."""
    device = choose_device(request.device)
    if device.type not in DEFAULTS:
        raise UserError(f"there is no benchmark for {device.type} devices", where="--device", hint="cpu or cuda")
    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise UserError(
            f"no plot can be written as {plot.suffix or plot.name!r}", where="--plot", hint=", ".join(PLOTS)
        )
    ops = _chosen_ops(request)
    manager = PluginManager()
    manager.load()
    for name in request.impls:
        if name != EAGER:
            manager.get("kernel", name, where="--impl")
    found, left_out = implementations(manager, device, request.impls)
    for name in request.impls:
        if name in left_out:
            raise UserError(f"kernel {name!r} cannot run here: {left_out[name]}", where="--impl")
    settings = _settings(request, device)
    console = Console()
    console.print(f"device {_device_name(device)} · torch {torch.__version__}", highlight=False)
    for name, reason in left_out.items():
        console.print(f"left out: {name}: {reason}", highlight=False)
    rows: list[Row] = []
    measured: list[dict[str, Any]] = []
    for setting in settings:
        limits = ceilings(setting, min(0.5, request.seconds))
        measured.append({"dtype": str(setting.dtype), "shape": str(setting.shape), **asdict(limits)})
        mine: list[Row] = []
        for op in ops:
            if console.is_terminal:
                console.print(f"… {op}", end="\r")
            mine += measure(op, setting, limits, found, request.seconds)
            if json_file is not None:  # after each op: a long session that ends early has written what it knows
                _write(json_file, [*rows, *mine], device, measured, left_out)
        print_table(console, mine, _title(setting, limits))
        for row in mine:
            if row.problem is not None:
                console.print(f"{row.op}, {row.impl}: {row.problem}", highlight=False, markup=False)
        rows += mine
    if json_file is not None:
        console.print(f"rows: {json_file}", highlight=False, markup=False)
    if plot is not None:
        title = _title(settings[0], None) if len(settings) == 1 else _device_name(device)
        draw(rows, title, plot)
        console.print(f"plot: {plot}", highlight=False, markup=False)
    return rows


def _write(
    file: Path, rows: list[Row], device: torch.device, measured: list[dict[str, Any]], left_out: dict[str, str]
) -> None:
    write_json(
        file,
        {
            "date": datetime.now(UTC).date().isoformat(),
            "environment": environment(),
            "device": _device_name(device),
            "ceilings": measured,
            "left_out": left_out,
            "rows": [asdict(row) for row in rows],
        },
    )


def _chosen_ops(request: Request) -> tuple[str, ...]:
    unknown = [op for op in request.ops if op not in OPS]
    if unknown:
        raise UserError(f"there is no op {unknown[0]!r}", where="bench", hint=f"one of {', '.join(OPS)}")
    return request.ops or tuple(OPS)


def _settings(request: Request, device: torch.device) -> list[Setting]:
    default = DEFAULTS.get(device.type, DEFAULTS["cpu"])
    if request.model is not None:
        default = model_shape(request.model, default)
    shapes: list[Shape] = [parse_shape(text, default) for text in request.shapes] or [default]
    names = request.dtypes or (("bfloat16",) if device.type == "cuda" else ("float32",))
    return [
        Setting(shape, getattr(torch, name), device, request.masked, not request.forward, request.seed)
        for shape in shapes
        for name in names
    ]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _title(setting: Setting, limits: Ceilings | None) -> str:
    text = f"{setting.shape}, {str(setting.dtype).removeprefix('torch.')}"
    text += ", forward only" if not setting.backward else ", forward and backward"
    if setting.masked:
        text += f", {setting.masked:.0%} of the tokens masked"
    if limits is not None:
        text += f" · ceilings {limits.flops_per_s / 1e12:.3g} TFLOP/s, {limits.bytes_per_s / 1e9:.3g} GB/s"
    return text
