"""This project's kernels beside other libraries' on tasks that both compute, in one process.

    python benchmarks/kernels/run.py [--shape T=8192,H=4096,V=128256] [--mask 0.5] [--json F] [--plot F]
    python benchmarks/kernels/run.py --wheels FOLDER …

Forward and backward, gradients of hidden states and projection. Peers are measured if they are installed; --wheels
installs the ones in FOLDER (pip download --no-deps liger-kernel cut-cross-entropy quack-kernels verl) into a folder of
its own first, without any index. `alignkit bench` has the other ops.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
from peers import tasks, versions
from rich.console import Console
from torch import Tensor

from alignkit.device import choose_device
from alignkit.engine.environment import environment
from alignkit.files import write_json
from alignkit.ops import EAGER, OPS
from alignkit_kernels.bench.cases import Problem, Setting, Work
from alignkit_kernels.bench.measure import ceilings
from alignkit_kernels.bench.report import draw, print_table
from alignkit_kernels.bench.run import Row, measure_problem
from alignkit_kernels.bench.shapes import DEFAULTS, parse_shape

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def problems(s: Setting) -> list[Problem]:
    """The three tasks on the same hidden states and projection."""
    generator = torch.Generator(s.device).manual_seed(s.seed)
    t, hidden, v = s.shape.tokens, s.shape.hidden, s.shape.vocabulary

    def normal(*shape: int, factor: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator, device=s.device) * factor

    h = normal(t, hidden).to(s.dtype).requires_grad_()
    weight = normal(v, hidden, factor=2 * hidden**-0.5).to(s.dtype).requires_grad_()
    y = torch.randint(0, v, (t,), generator=generator, device=s.device)
    rows = t // s.shape.length
    advantages = normal(rows, 1).expand(rows, s.shape.length).reshape(-1).contiguous()
    # the last part of each completion is masked, as padding is
    kept = torch.arange(s.shape.length, device=s.device).repeat(rows) < round(s.shape.length * (1 - s.masked))
    weights = kept / kept.sum()
    with torch.no_grad():
        parts = zip(h.split(1024), y.split(1024), strict=True)
        logp = torch.cat([OPS["linear_logprob"](a, _head(weight), b)[0] for a, b in parts])
    old = logp + 0.1 * normal(t)
    full, part = (Work(flops=6.0 * n * hidden * v) for n in (t, int(kept.sum())))
    common = {"leaves": (0, 1), "rows": (0, 2)}
    return [
        Problem(
            "cross_entropy", [h, weight, y, t], full, lambda f, h, w, y, n: [f(h, w, y) * (len(h) / n)], **common,
            summed=frozenset({0, 2}), reference=lambda h, w, y: torch.nn.functional.cross_entropy(h @ w.T, y),
        ),
        Problem(
            "logprob_entropy", [h, weight, y], full, lambda f, h, w, y: list(f(h, w, y)), **common,
            summed=frozenset({3}), reference=lambda h, w, y: OPS["linear_logprob"](h, _head(w), y, with_entropy=True),
        ),
        Problem(
            "clipped_loss", [h, weight, y, advantages, weights, old], part, lambda f, *x: [f(*x)], leaves=(0, 1),
            rows=(0, 2, 3, 4, 5), summed=frozenset({0, 2}),
            reference=lambda h, w, y, a, u, old: OPS["fused_linear_policy_loss"](
                h, _head(w), y, a, u, old_logp_N=old
            )[0],
        ),
    ]  # fmt: skip


def _head(weight: Tensor):
    from alignkit.batches import Head

    return Head(weight)


def install(wheels: Path, target: str) -> None:
    """Without dependencies: torch and triton are there, the rest is not needed by what is called."""
    for wheel in sorted(wheels.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", target, wheel]
        if subprocess.run(command, check=False).returncode:
            print(f"could not install {wheel.name}")
    sys.path.append(target)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="", help="parts of T=…,H=…,V=…,L=…")
    parser.add_argument("--mask", type=float, default=0.0, help="share of the tokens that clipped_loss leaves out")
    parser.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, else float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each task and function")
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    default = DEFAULTS.get(device.type, DEFAULTS["cpu"])
    shape = parse_shape(arguments.shape, default) if arguments.shape else default
    if shape.tokens % shape.length:
        parser.error(f"T={shape.tokens} is not a multiple of L={shape.length}, the length of a completion")
    dtype = DTYPES[arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32")]
    setting = Setting(shape, dtype, device, arguments.mask)
    console, rows = Console(), []
    with tempfile.TemporaryDirectory() as folder:
        if arguments.wheels:
            install(arguments.wheels, folder)
        functions, missing = tasks(device, shape.length)
        limits = ceilings(setting, min(1.0, arguments.seconds))
        for problem in problems(setting):
            mine = functions[problem.op]
            first = {EAGER: mine[EAGER], **mine}
            rows += list(measure_problem(problem, setting, limits, first, arguments.seconds))
        peers = versions()
    title = f"{shape}, {str(dtype).removeprefix('torch.')}, {arguments.mask:.0%} masked in clipped_loss"
    print_table(console, rows, f"{title} · {limits.flops_per_s / 1e12:.3g} TFLOP/s")
    for name, why in [*missing.items(), *((f"{r.op}, {r.impl}", r.problem) for r in rows if r.problem)]:
        console.print(f"left out: {name}: {why}", highlight=False, markup=False)
    if arguments.json:
        write_json(arguments.json, result(rows, missing, peers, asdict(limits)))
    if arguments.plot:
        draw(rows, title, arguments.plot)


def result(rows: list[Row], missing: dict[str, str], peers: dict[str, str], limits: dict[str, float]) -> dict:
    """What is written."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "peers": peers,
        "missing": missing,
        "ceilings": limits,
        "rows": [asdict(row) for row in rows],
    }


if __name__ == "__main__":
    main()
