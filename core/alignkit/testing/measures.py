"""What several suites measure of models and folders: log-probs by their definition, weights, seeds, files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from alignkit.batches import Head, Row, TokenBatch
from alignkit.protocols import Policy
from alignkit.testing.randomness import assert_unused, global_seed, global_states

# One row at a time, unequal parts (whether rows or tokens are counted), everything at once.
MICRO_BATCHES = (1, 5, 40, 10**6)
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}


def logits_of(h_NH: Tensor, head: Head) -> Tensor:
    """softcap(scale * (h W^T + b)) in float64, [N, V]."""
    logits_NV = h_NH.double() @ head.weight_VH.double().T
    if head.bias_V is not None:
        logits_NV = logits_NV + head.bias_V.double()
    logits_NV = logits_NV * head.scale
    return logits_NV if head.softcap is None else head.softcap * torch.tanh(logits_NV / head.softcap)


@torch.no_grad()
def next_token_logits(policy: Policy, ids: Sequence[int]) -> Tensor:
    """Logits of the token that follows `ids`, float64, [V], from one row without padding."""
    row = Row([*ids, policy.pad_id], [False] * len(ids) + [True])
    h_1H, head = policy.hidden(TokenBatch.from_rows([row], policy.pad_id, policy.device))
    return logits_of(h_1H, head)[0].cpu()


@torch.no_grad()
def target_logprobs(policy: Policy, rows: Sequence[Row], temperature: float = 1.0) -> list[Tensor]:
    """Log-probs of each row's targets, float64, each row by itself without padding."""
    found = []
    for row in rows:
        batch = TokenBatch.from_rows([row], policy.pad_id, policy.device)
        logp_NV = torch.log_softmax(logits_of(*policy.hidden(batch)) / temperature, dim=-1)
        found.append(logp_NV.gather(-1, batch.targets_N[:, None]).squeeze(-1).cpu())
    return found


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def changed_weights(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not bit for bit the same."""
    assert before.keys() == after.keys()
    return [name for name in before if not torch.equal(before[name], after[name])]


@torch.no_grad()
def disturb(module: nn.Module, size: float = 0.1, seed: int = 0) -> None:
    """Add noise to every trainable parameter, as training would change it."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.requires_grad:
            noise = size * torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter.device, parameter.dtype))


@contextmanager
def untouched_global_rng() -> Iterator[None]:
    """Fails if a global random state is another one afterwards."""
    with global_seed(20_011):  # nobody else's, so that setting it shows too
        before = global_states()
        yield
        assert_unused(before)


def pickles_in(folder: Path) -> list[str]:
    """Names of files below `folder` that are read by unpickling, or look like it."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix.lower() in PICKLES)
