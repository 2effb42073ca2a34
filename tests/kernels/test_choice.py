"""`kernels:` takes what was named or says why not; `auto` takes the best that runs and says what it passed over."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch

from alignkit import Component, hookimpl
from alignkit.batches import Head
from alignkit.components import NoConfig
from alignkit.errors import UserError
from alignkit.manager import PluginManager, PluginStatus
from alignkit.ops import OPS, choose_ops

CPU = torch.device("cpu")


class Fancy:
    """A third party's kernel."""

    def __init__(self, problem: str | None, ops: Mapping[str, Callable[..., Any]]) -> None:
        self.problem = problem
        self.ops = ops

    def unavailable(self, device: torch.device) -> str | None:
        return self.problem

    def preference(self, device: torch.device) -> int:
        return 9

    def implementations(self) -> Mapping[str, Callable[..., Any]]:
        return self.ops


def manager_with(problem: str | None = None, ops: Mapping[str, Any] | None = None) -> PluginManager:
    module = ModuleType("fancy_plugin")
    own = {"gae": OPS["gae"]} if ops is None else ops

    @hookimpl
    def alignkit_kernels() -> list[Component]:
        return [Component(name="fancy", build=lambda config, context: Fancy(problem, own), config=NoConfig)]

    module.alignkit_kernels = alignkit_kernels  # type: ignore[attr-defined]
    manager = PluginManager()
    manager.load()
    manager.register(module, PluginStatus("fancy", "fancy-kernels", "1.0"))
    return manager


def plain_manager() -> PluginManager:
    manager = PluginManager()
    manager.load()
    return manager


def test_auto_on_a_cpu_is_chunked() -> None:
    ops = choose_ops(plain_manager(), "auto", CPU)
    assert ops.choice["fused_linear_policy_loss"] == "chunked"
    assert ops.choice["gae"] == "eager"
    assert ops.reason.startswith("auto on cpu; not triton: it needs a GPU")


def test_auto_on_a_gpu_is_triton() -> None:
    ops = choose_ops(plain_manager(), "auto", torch.device("cuda"))
    assert set(ops.choice.values()) == {"triton"}


def test_auto_takes_a_third_partys_kernel_that_recommends_itself_more() -> None:
    ops = choose_ops(manager_with(), "auto", CPU)
    assert ops.choice == {**dict.fromkeys(OPS, "eager"), "gae": "fancy"}


def test_the_fused_op_of_a_kernel_without_one_is_made_of_its_parts() -> None:
    calls = []

    def own_logprob(*arguments: Any, **options: Any) -> Any:
        calls.append("linear_logprob")
        return OPS["linear_logprob"](*arguments, **options)

    ops = choose_ops(manager_with(ops={"linear_logprob": own_logprob}), "fancy", CPU)
    h, weight, ones = torch.randn(3, 4), torch.randn(7, 4), torch.ones(3)
    loss, _ = ops.fused_linear_policy_loss(h, Head(weight), torch.tensor([0, 1, 6]), ones, ones / 3)
    assert calls == ["linear_logprob"]
    assert torch.equal(
        loss, OPS["fused_linear_policy_loss"](h, Head(weight), torch.tensor([0, 1, 6]), ones, ones / 3)[0]
    )


class NoPreference:
    """Written for something else."""

    def unavailable(self, device: torch.device) -> None:
        return None


def broken_build(config: Any, context: Any) -> Any:
    raise ImportError("no module named luck")


@pytest.mark.parametrize(
    ("name", "build", "problem"),
    [
        ("sad", broken_build, "kernel 'sad' could not be built: ImportError: no module named luck"),
        ("sad", lambda config, context: NoPreference(), "preference(device) is missing"),
        ("fancy", lambda config, context: Fancy(None, {}), "another plugin than"),
    ],
)
def test_a_broken_kernel_breaks_no_run_that_does_not_name_it(name: str, build: Any, problem: str) -> None:
    module = ModuleType("odd_plugin")

    @hookimpl
    def alignkit_kernels() -> list[Component]:
        return [Component(name=name, build=build, config=NoConfig)]

    module.alignkit_kernels = alignkit_kernels  # type: ignore[attr-defined]
    manager = manager_with(ops={})
    manager.register(module, PluginStatus("odd", "odd-kernels", "1.0"))
    ops = choose_ops(manager, "auto", CPU)
    assert set(ops.choice.values()) == {"eager"}  # fancy recommends itself and offers nothing
    assert f"not {name}: " in ops.reason
    assert problem in ops.reason


def test_auto_leaves_out_what_cannot_run_and_says_why() -> None:
    ops = choose_ops(manager_with("the moon is full"), "auto", CPU)
    assert ops.choice["linear_logprob"] == "chunked"
    assert "not fancy: the moon is full" in ops.reason


@pytest.mark.parametrize(
    ("name", "manager", "message"),
    [
        ("triton", plain_manager, "kernel 'triton' cannot run here: it needs a GPU that Triton compiles for"),
        ("fancy", lambda: manager_with("no luck"), "kernel 'fancy' cannot run here: no luck"),
        ("fancy", lambda: manager_with(ops={"gea": OPS["gae"]}), "kernel 'fancy' offers unknown ops"),
        ("tritn", plain_manager, "no kernel 'tritn'"),
    ],
)
def test_what_was_named_and_cannot_be_is_an_error(
    name: str, manager: Callable[[], PluginManager], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UserError) as caught:
        choose_ops(manager(), name, CPU)
    assert message in str(caught.value)
