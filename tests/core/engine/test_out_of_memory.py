"""Out of memory: the numbers, and what to do first."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.batches import Row, TokenBatch
from alignkit.engine.memory import SIZES, asked_bytes, host_limit, memory_fault, option_sizes, resident_bytes
from alignkit.errors import out_of_memory
from alignkit.manager import PluginManager
from alignkit.recipe import ComponentSpec


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB", 2.5 * 2**30),
        ("CUDA out of memory. Tried to allocate 20.00 MiB. GPU", 20 * 2**20),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes. Error code 12", 400),
        ("Unable to allocate 7.45 GiB for an array with shape (1000000000,)", 7.45 * 2**30),
        ("", None),
    ],
)
def test_what_was_asked_for_is_read_from_the_message(message: str, expected: float | None) -> None:
    assert asked_bytes(RuntimeError(message)) == (None if expected is None else int(expected))


def huge() -> list[BaseException]:
    """Real errors of three allocators."""
    found: list[BaseException] = []
    for call in (lambda: torch.empty(2**50), lambda: np.zeros(2**50), lambda: bytearray(2**62)):
        try:
            call()
        except Exception as error:
            found.append(error)
    return found


def test_real_allocators_are_recognised_and_their_numbers_shown() -> None:
    errors = huge()
    assert len(errors) == 3
    assert all(out_of_memory(error) for error in errors)
    assert [asked_bytes(e) for e in errors] == [4 * 2**50, 8 * 2**50, None]
    said = str(memory_fault(errors[0]))
    assert said.startswith("out of memory in this process: asked for 4194304.00 GiB; in use by this process ")
    total, which = host_limit()
    assert total is not None
    assert f"{which} {total / 2**30:.2f} GiB" in said


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_what_libraries_say(error: BaseException) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), OSError(2, "no file"), ValueError("std::bad_alloc")])
def test_other_errors_are_not_a_lack_of_memory(error: BaseException) -> None:
    assert not out_of_memory(error)


def test_sizes_are_found_however_deep_they_stand() -> None:
    manager = PluginManager()
    manager.load()
    options: dict[str, Any] = {"policy": "@a", "prompts": "@b", "iterations": 1, "reward_source": "film_taste"}
    stage = {"name": "ppo", "micro_batch_tokens": 77}
    found = option_sizes(manager, "step", ComponentSpec(name="align", **options, batch_size=12, optimizer_stage=stage))
    assert found["batch_size"] == "12"
    assert found["optimizer_stage.micro_batch_tokens"] == "77"
    assert found["sampling.max_length"] == "64"  # a default, in options inside
    assert int(found["sampler.batch_size"]) > 0  # a default of a component inside
    assert all(name.rpartition(".")[2] in SIZES for name in found)


class Policy:
    """Has a module, as a policy does."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(30, 40)


def test_model_and_batch_in_hand_are_read_from_the_frames() -> None:
    def forward(batch: TokenBatch, policy: Policy) -> None:
        raise MemoryError

    def step() -> None:
        rows = [Row(range(1, n + 1), [False] * n) for n in (3, 17, 5)]
        forward(TokenBatch.from_rows(rows, 0), Policy())

    try:
        step()
    except MemoryError as error:
        said = str(memory_fault(error, {"batch_size": "64", "optimizer_stage.micro_batch_tokens": "8192"}))
    assert "parameters 1,240" in said
    assert "forward pass of 3 rows, the longest 17 tokens" in said
    assert "batch_size 64; optimizer_stage.micro_batch_tokens 8192" in said


def test_advice_stands_in_order_of_cost_and_says_that_the_run_goes_on() -> None:
    said = str(memory_fault(MemoryError()))
    words = ["micro_batch_tokens", "gradient_checkpointing", "lora", "shared", "sampler", "precision", "checkpoint"]
    places = [said.index(word) for word in words[:1] + words[1:-1]] + [said.rindex("checkpoint")]
    assert places == sorted(places)
    assert "the same command goes on from the last checkpoint" in said


def test_the_gpu_has_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: dict[str, Any] = {"mem_get_info": (2**30, 80 * 2**30), "memory_allocated": 3 * 2**30}
    for name, value in {**figures, "memory_reserved": 4 * 2**30}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    said = str(memory_fault(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")))
    assert said.startswith(
        "out of memory on the GPU: asked for 2.00 GiB; in use by this process 3.00 GiB; reserved 4.00 GiB; "
        "free on the device 1.00 GiB; total of the device 80.00 GiB"
    )


@pytest.mark.slow
def test_a_process_that_may_have_no_more_says_its_limit() -> None:
    code = """
import resource, torch
from alignkit.engine.memory import host_limit, memory_fault, resident_bytes
from alignkit.errors import out_of_memory
limit = 64 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = resident_bytes()
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
kept = []
try:
    while True:
        kept.append(torch.ones(2**26))
except (RuntimeError, MemoryError) as error:
    kept.clear()
    assert out_of_memory(error)
    print(memory_fault(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "asked for 256.00 MiB; in use by this process" in done.stdout
    assert "limit of the process's address space 2.00 GiB" in done.stdout


def test_this_process_has_a_size() -> None:
    size = resident_bytes()
    assert size is not None
    assert 2**20 < size < 2**40
