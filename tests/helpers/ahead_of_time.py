"""Compiles the Triton programs for GPUs that are not there, and reads what the result needs.

    python tests/helpers/ahead_of_time.py

Prints one JSON object a program and target. Must run without TRITON_INTERPRET.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from alignkit_kernels import triton_ops, triton_rows
from alignkit_kernels.triton_kernels import elementwise, vocabulary

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
PLAIN = {"CAP": False, "REF": False, "REF_CAP": False}
EVERYTHING = {"CAP": True, "REF": True, "REF_CAP": True}
LOGITS = {"z_ptr", "ref_ptr", "out_ptr"}
COUNTS = {"vocabulary", "count", "length", "z_stride", "ref_stride", "out_stride"}


@dataclass(frozen=True)
class Compiled:
    """What one program needs on one target; spills are in bytes of stack or in instructions."""

    program: str
    constants: dict[str, Any]
    logits: str
    target: str
    shared: int
    registers: int
    stack: int
    spills: int


def programs() -> Iterator[tuple[Any, dict[str, Any], int]]:
    """Each program with constants as it is launched with, and its number of warps."""
    rows, gradient = triton_rows.STATISTICS_BLOCK, triton_rows.GRADIENT_BLOCK
    for constants in (PLAIN, EVERYTHING):
        yield vocabulary.row_statistics, {**constants, "BLOCK": rows}, triton_rows.warps(rows)
        extra = {"ENTROPY": constants["REF"], "SAVED": 4 if constants["REF"] else 2, "BLOCK": gradient}
        yield vocabulary.row_gradient, {**constants, **extra}, triton_rows.warps(gradient)
    block = triton_ops.BLOCK
    yield elementwise.policy_loss_program, {"DUAL": True, "BLOCK": block}, 4
    yield elementwise.value_loss_program, {"CLIP": True, "BLOCK": block}, 4
    yield elementwise.pairwise_loss_program, {"BLOCK": block}, 4
    yield elementwise.gae_program, {"BLOCK": block}, triton_rows.warps(block)


def compile_program(program: Any, constants: dict[str, Any], warps: int, logits: str, target: str) -> Compiled:
    """For float32, bf16 or fp16 logits."""

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name.endswith("_ptr"):
            return "*" + {"targets_ptr": "i64", "mask_ptr": "i8"}.get(name, logits if name in LOGITS else "fp32")
        return "i32" if name in COUNTS else "fp32"

    signature = {name: kind(name) for name in program.arg_names}
    aligned: dict[Any, Any] = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, type) in enumerate(signature.items())
        if type.startswith("*") or name in COUNTS
    }
    source = ASTSource(program, signature, constants, aligned)
    options = {"num_warps": warps, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=TARGETS[target], options=options)
    needs = _amd(compiled.asm["amdgcn"]) if target.startswith("gfx") else _nvidia(compiled.asm["cubin"])
    return Compiled(program.__name__, constants, logits, target, compiled.metadata.shared, *needs)


def _nvidia(cubin: bytes) -> tuple[int, int, int]:
    """Registers, stack and stores to local memory."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run([str(tool), option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    registers, stack = (int(re.findall(rf"\b{name}:(\d+)", usage)[0]) for name in ("REG", "STACK"))
    return registers, stack, len(re.findall(r"\bSTL\b", code))


def _amd(assembly: str) -> tuple[int, int, int]:
    """Registers, private memory and spilled registers."""

    def number(name: str) -> int:
        return int(re.findall(rf"\.{name}:\s*(\d+)", assembly)[0])

    spills = number("vgpr_spill_count") + number("sgpr_spill_count")
    return number("vgpr_count"), number("private_segment_fixed_size"), spills


if __name__ == "__main__":
    for program, constants, warps in programs():
        for logits in ("bf16", "fp16", "fp32"):
            for target in TARGETS:
                print(json.dumps(asdict(compile_program(program, constants, warps, logits, target))), flush=True)
            if not LOGITS & set(program.arg_names):
                break
