"""The operators that are one Triton launch are registered as torch wants them."""

import torch
from torch.library import opcheck

from alignkit_kernels import library, triton_ops

# The dispatch test of compiled graphs is left to the chunked ops: Triton's interpreter cannot run inside a graph.
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def test_single_launches() -> None:
    torch.manual_seed(0)
    x, y, z = torch.randn(9, requires_grad=True), torch.randn(9), torch.randn(9)
    opcheck(triton_ops.policy_loss, (x, y, z, 0.2, 0.3, 2.0), test_utils=CHECKS)
    opcheck(triton_ops.value_loss, (x, y, z, 0.2), test_utils=CHECKS)
    opcheck(triton_ops.pairwise_loss, (x, y, z.sigmoid(), z.abs(), z.exp()), test_utils=CHECKS)
    opcheck(triton_ops.gae, (torch.randn(2, 5), torch.randn(2, 5), torch.ones(2, 5, dtype=torch.bool), 0.9, 0.8))
    logits = torch.randn(3, 40, requires_grad=True)
    opcheck(triton_ops.token_logprob, (logits, torch.tensor([0, 39, 7]), 0.7), test_utils=CHECKS)


def test_rows_in_triton() -> None:
    h, weight = torch.randn(3, 8, requires_grad=True), torch.randn(40, 8, requires_grad=True)
    arguments = ("triton", h, weight, None, torch.tensor([0, 39, 7]), 0.7, 1.0, None, True)
    opcheck(library.linear_logprob, arguments, test_utils=CHECKS)
