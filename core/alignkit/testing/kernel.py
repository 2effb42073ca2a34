"""What a kernel owes the stages that call it: the reference's numbers, for any batch, with nothing else touched."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from alignkit.components import Kind
from alignkit.manager import Registered
from alignkit.ops import OPS
from alignkit.protocols import Kernel
from alignkit.testing.contract import ComponentContract
from alignkit.testing.kernel_cases import (
    CASES,
    RUNS,
    SLACK,
    Case,
    Inputs,
    Results,
    Truth,
    differences,
    truth,
)
from alignkit.testing.kernel_losses import LossCase, extreme_cases, loss_cases, loss_truth
from alignkit.testing.kernel_uses import Op, calls_of, equal, only, recorded, uses, without_tokens

DEVICES = ("cpu", "cuda", "meta")
GRADIENTS = {"dh", "dW", "db", "d0", "d1"}


def is_gradient(name: str) -> bool:
    """Whether a result of this name is one."""
    return name in GRADIENTS


def is_value(name: str) -> bool:
    """Whether it is none."""
    return name not in GRADIENTS


class KernelContract(ComponentContract):
    """The checks of kernels: every op that one offers, against the eager reference in float64.

    An implementation may be `slack` times as far from the truth as the eager op, or one rounding, whichever is more.
    A kernel that cannot run on `device` skips with its own reason.
    """

    kind: ClassVar[Kind] = "kernel"
    cases: ClassVar[Sequence[Case]] = CASES
    """Shapes and forms of the vocabulary projection: sizes, bias, soft cap, scale, temperature, masks, strides."""
    dtypes: ClassVar[Sequence[torch.dtype]] = (torch.float32, torch.bfloat16, torch.float16)
    """The types that the kernel is for; cases of other types are left out."""
    slack: ClassVar[Mapping[torch.dtype, float]] = {}
    """How many times the eager op's own error is allowed, for a type where that is not 1.5."""

    @pytest.fixture
    def ops(self, built: Kernel) -> Mapping[str, Op]:
        """What the kernel offers, on a device where it can run."""
        device = torch.device(self.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
        reason = built.unavailable(device)
        if reason is not None:
            pytest.skip(f"{self.component} cannot run on {self.device}: {reason}")
        return built.implementations()

    def test_says_whether_it_can_run(self, built: Kernel) -> None:
        """`kernels: auto` asks every kernel about the device, also one that is not there: a reason, or None."""
        for device in DEVICES:
            try:
                reason = built.unavailable(torch.device(device))
            except Exception as error:
                pytest.fail(f"unavailable({device}) raises {type(error).__name__}: {error}", pytrace=False)
            assert reason is None or (isinstance(reason, str) and reason.strip()), f"{device}: {reason!r}"

    def test_preference_is_a_whole_number(self, built: Kernel) -> None:
        """`kernels: auto` takes the available kernel with the highest preference; 0 is for those that must be named."""
        for device in DEVICES:
            found = built.preference(torch.device(device))
            assert type(found) is int, f"{device}: {found!r}"
            assert found >= 0, f"{device}: {found}"

    def test_needs_no_options(self, registered: Registered) -> None:
        """A recipe names a kernel and says no more: every option has a default, and `build` gets no context."""
        try:
            kernel = registered.component.build(registered.component.config(), None)
        except Exception as error:
            pytest.fail(f"building it without options and context: {type(error).__name__}: {error}", pytrace=False)
        assert kernel.implementations() is not None

    def test_offers_known_ops(self, ops: Mapping[str, Op]) -> None:
        """An op of another name would never be called."""
        assert ops, "it offers no op"
        unknown = sorted(set(ops) - set(OPS))
        assert not unknown, f"unknown ops {', '.join(unknown)}; there are {', '.join(OPS)}"

    def test_signatures_are_those_of_the_reference(self, ops: Mapping[str, Op]) -> None:
        """Stages call ops without knowing whose they are: each takes what the eager one does, by place and name."""
        refused = []
        for name, op in ops.items():
            for arguments, keywords in calls_of(OPS[name]):
                try:
                    inspect.signature(op).bind(*arguments, **keywords)
                except TypeError as error:
                    refused.append(f"{name}({', '.join([*arguments, *(f'{k}=…' for k in keywords)])}): {error}")
        assert refused == [], "\n".join(refused)

    def test_values_are_those_of_the_reference(self, ops: Mapping[str, Op]) -> None:
        """A faster kernel changes how long a run takes and nothing else."""
        self.assert_close(ops, is_value)

    def test_gradients_are_those_of_the_reference(self, ops: Mapping[str, Op]) -> None:
        """What is trained are hidden states, projection and bias; each has its own gradient, scaled by what follows."""
        self.assert_close(ops, is_gradient)

    def test_extreme_numbers_stay_finite(self, ops: Mapping[str, Op]) -> None:
        """Logits of 10,000, policies far apart, forbidden ids: nothing overflows where the reference does not."""
        for case in (c for c in extreme_cases() if c.op in ops):
            found = case(ops[case.op], self.device)
            for key, eager in loss_truth(case, self.device).eager.items():
                lost = torch.isfinite(eager) & ~torch.isfinite(found[key])
                assert not lost.any(), f"{case.name}: {key} is not finite where the reference is"
        large = replace(self.plain_case(), spread=1e4)
        for name, run in ((n, r) for n, r in RUNS.items() if r.op in ops):
            for key, x in run(ops[run.op], Inputs(large, device=self.device)).items():
                assert bool(torch.isfinite(x).all()), f"{name}, logits of {large.spread:g}: {key} is not finite"

    def test_batch_without_tokens(self, ops: Mapping[str, Op]) -> None:
        """A process may be left without a token of a batch: it has results of no token and gradients of zero."""
        broken = []
        for name, op in ops.items():
            try:
                broken += [f"{name}: {problem}" for problem in without_tokens(name, op, self.device)]
            except Exception as error:
                broken.append(f"{name}: {type(error).__name__}: {error}")
        assert broken == [], "; ".join(broken)

    def test_kept_ids(self, ops: Mapping[str, Op]) -> None:
        """Under top-k and top-p the ratio is that of the distribution that was drawn from: over `kept_NK` alone."""
        op = self.offered(ops, "linear_logprob")
        case = self.plain_case()
        results = []
        for function in (OPS["linear_logprob"], op):
            inputs = Inputs(case, device=self.device)
            first = torch.arange(6, device=self.device).expand(case.tokens, 6)
            kept = torch.cat([inputs.targets[:, None], first], 1)
            kept[inputs.targets < 6, 0] = -1
            logp, entropy = function(inputs.h, inputs.head, inputs.targets, 0.9, with_entropy=True, kept_NK=kept)
            (logp.sum() + entropy.square().sum()).backward()
            results.append([logp, entropy, *inputs.gradients().values()])
        for name, eager, found in zip(("logp", "entropy", "dh", "dW", "db"), *results, strict=True):
            self.assert_near(found, eager, f"{name} among kept ids")

    def test_entropy_is_zero_where_nobody_asks(self, ops: Mapping[str, Op]) -> None:
        """Without `with_entropy` there are zeros, which saves a pass over the vocabulary, and the same log-probs."""
        op = self.offered(ops, "linear_logprob")
        case = self.plain_case()
        inputs = Inputs(case, device=self.device)
        logp, entropy = op(inputs.h, inputs.head, inputs.targets, case.temperature)
        assert entropy.shape == logp.shape, f"entropy is {list(entropy.shape)}, log-probs are {list(logp.shape)}"
        assert not entropy.any(), "the entropy is not zero"
        expected, _ = OPS["linear_logprob"](inputs.h, inputs.head, inputs.targets, case.temperature)
        self.assert_near(logp, expected, "logp without entropy")

    def test_frozen_tensors_change_nothing(self, ops: Mapping[str, Op]) -> None:
        """Adapters freeze the projection: what needs no gradient gets none, and the other gradients stay the same."""
        for name, run in self.runs(ops):
            whole = run(ops[run.op], Inputs(self.plain_case(), device=self.device))
            for frozen, key in (("h", "dh"), ("weight", "dW"), ("bias", "db")):
                inputs = Inputs(self.plain_case(), device=self.device)
                getattr(inputs, frozen).requires_grad_(False)
                found = run(ops[run.op], inputs)
                assert found.keys() == whole.keys() - {key}, f"{name}, frozen {frozen}: results are {', '.join(found)}"
                for other, x in found.items():
                    self.assert_near(x, whole[other], f"{name}: {other} where {frozen} needs no gradient")

    def test_works_without_gradients(self, ops: Mapping[str, Op]) -> None:
        """Log-probs of a rollout are taken under no_grad: the same values, and no graph behind them."""
        for name, run in self.runs(ops):
            results: list[Tensor] = []
            op = recorded(ops[run.op], results)
            with torch.no_grad():
                found, _ = run.forward(op, Inputs(self.plain_case(), device=self.device))
            assert not any(x.requires_grad for x in results), f"{name}: a graph under no_grad"
            expected = truth(name, self.plain_case(), self.device)
            self.assert_no_problems(name, found, only(expected, is_value))

    def test_diagnostics_carry_no_gradient(self, ops: Mapping[str, Op]) -> None:
        """Figures are logged and summed up over an epoch; a graph behind them would keep every batch in memory."""
        inputs = Inputs(self.plain_case(), device=self.device)
        figures: Results = {}
        if "fused_linear_policy_loss" in ops:
            arguments = (inputs.h, inputs.head, inputs.targets, inputs.advantages, inputs.weights)
            figures |= ops["fused_linear_policy_loss"](*arguments, old_logp_N=inputs.old, entropy_coef=0.1)[1]
        if "policy_loss" in ops:
            leaf = inputs.old.clone().requires_grad_()
            figures |= ops["policy_loss"](leaf, inputs.ref, inputs.advantages, 0.2, 0.2, None)[1]
        if not figures:
            pytest.skip("it offers no op with diagnostics")
        attached = [name for name, x in figures.items() if x.requires_grad]
        assert attached == [], f"detach {', '.join(attached)}"

    def test_inputs_are_not_changed(self, ops: Mapping[str, Op]) -> None:
        """Hidden states go into several ops and projections are weights: no op writes to its arguments."""
        for name, run in self.runs(ops):
            inputs, before = (Inputs(self.plain_case(), device=self.device) for _ in range(2))
            run(ops[run.op], inputs)
            changed = [key for key, x in vars(before).items() if not equal(x, getattr(inputs, key))]
            assert changed == [], f"{name} changed {', '.join(changed)}"
        for case in self.losses(ops):
            (leaves, rest), (old_leaves, old_rest) = case.arguments(self.device), case.arguments(self.device)
            ops[case.op](*leaves, *rest)
            same = all(equal(x, y) for x, y in zip([*leaves, *rest], [*old_leaves, *old_rest], strict=True))
            assert same, f"{case.name} changed its arguments"

    def test_same_each_time(self, ops: Mapping[str, Op]) -> None:
        """A run is repeated by its seed: equal inputs give equal bits, values and gradients."""
        for name, first, second in self.twice(ops):
            different = [key for key, x in first.items() if not torch.equal(x, second[key])]
            assert different == [], f"{name}: {', '.join(different)} differ from one call to the next"

    def test_two_calls_before_one_backward(self, ops: Mapping[str, Op]) -> None:
        """Losses of several micro-batches may be added up first: a call keeps what its gradient needs to itself."""
        for name, run in self.runs(ops):
            inputs = Inputs(self.plain_case(), device=self.device)
            _, first = run.forward(ops[run.op], inputs)
            other = Inputs(self.plain_case(), device=self.device)
            other.targets = other.targets.flip(0)
            other.h = (other.h.detach() * 0.5).requires_grad_()
            _, second = run.forward(ops[run.op], other)
            (first + second).backward()
            expected = only(truth(name, self.plain_case(), self.device), is_gradient)
            self.assert_no_problems(name, inputs.gradients(), expected)

    def test_gradients_add_up(self, ops: Mapping[str, Op]) -> None:
        """Gradients of micro-batches are accumulated: backward adds to what is there."""
        for name, run in self.runs(ops):
            inputs = Inputs(self.plain_case(), device=self.device)
            for _ in range(2):
                run(ops[run.op], inputs)
            expected = only(truth(name, self.plain_case(), self.device), is_gradient)
            half = {key: x / 2 for key, x in inputs.gradients().items()}
            self.assert_no_problems(f"{name}, half of two gradients", half, expected)

    def test_autocast_around_it_narrows_nothing(self, ops: Mapping[str, Op]) -> None:
        """Under `precision: bfloat16` projections stay float32: bfloat16 logits lose 2e-2 of a log-prob."""
        for name, run in self.runs(ops):
            inputs = Inputs(self.plain_case(), device=self.device)
            with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16):
                values, loss = run.forward(ops[run.op], inputs)
            loss.backward()
            found = {**values, **inputs.gradients()}
            self.assert_no_problems(name, found, truth(name, self.plain_case(), self.device))

    def plain_case(self) -> Case:
        """A case with a bias: float32, or the first of `dtypes` for a kernel that has no float32."""
        dtype = torch.float32 if torch.float32 in self.dtypes else self.dtypes[0]
        return replace(next((case for case in self.cases if case.bias), CASES[0]), dtype=dtype)

    def assert_near(self, found: Tensor, eager: Tensor, why: str) -> None:
        """Equal but for a few roundings of the plain case's type."""
        rtol = 64 * torch.finfo(self.plain_case().dtype).eps
        scale = float(eager.abs().max()) if eager.numel() else 1.0
        off = float((found - eager).abs().max()) if eager.numel() else 0.0
        assert off <= rtol * max(1.0, scale), f"{why}: off by {off:.3g} of {scale:.3g}"

    def runs(self, ops: Mapping[str, Op]) -> list[tuple[str, Any]]:
        """The uses of the vocabulary ops that are offered."""
        found = [(name, run) for name, run in RUNS.items() if run.op in ops]
        if not found and not self.losses(ops):
            pytest.skip("it offers no op that is looked at here")
        return found

    def losses(self, ops: Mapping[str, Op]) -> list[LossCase]:
        """The uses of the other ops that are offered."""
        return [case for case in loss_cases() if case.op in ops and case.dtype in self.dtypes]

    def offered(self, ops: Mapping[str, Op], name: str) -> Op:
        """An op, or a skip where there is none."""
        if name not in ops:
            pytest.skip(f"it offers no {name}")
        return ops[name]

    def twice(self, ops: Mapping[str, Op]) -> Iterator[tuple[str, Results, Results]]:
        """Every use with plain numbers, computed two times."""
        for name, run in self.runs(ops):
            first, second = (run(ops[run.op], Inputs(self.plain_case(), device=self.device)) for _ in range(2))
            yield name, first, second
        for loss in self.losses(ops):
            yield loss.name, loss(ops[loss.op], self.device), loss(ops[loss.op], self.device)

    def assert_close(self, ops: Mapping[str, Op], which: Callable[[str], bool]) -> None:
        """The results of these names keep the rule in every use of every op."""
        problems = []
        cases = [case for case in self.cases if case.dtype in self.dtypes]
        for name, dtype, results, expected in uses(ops, cases, self.losses(ops), self.device):
            found = {key: x for key, x in results.items() if which(key)}
            problems += [f"{name}: {p}" for p in differences(found, only(expected, which), self.slack_of(dtype))]
        assert problems == [], "\n".join(problems)

    def assert_no_problems(self, name: str, found: Results, expected: Truth) -> None:
        """The results of the plain case keep the rule."""
        problems = differences(found, expected, self.slack_of(self.plain_case().dtype))
        assert problems == [], f"{name}: {'; '.join(problems)}"

    def slack_of(self, dtype: torch.dtype) -> float:
        """How many times the eager op's error is allowed."""
        return self.slack.get(dtype, SLACK)
