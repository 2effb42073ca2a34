"""The arithmetic of plans against torch's own counter of operations, real modules, and cases done by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from alignkit.errors import UserError
from alignkit.plan.machine import Machine, changed, machine, quantity
from alignkit.plan.shape import ModelShape, shape_of
from alignkit.plan.steps import divided, gathered
from alignkit.plan.work import (
    Held,
    Rows,
    Work,
    bounds,
    forward_flops,
    reading,
    sampling,
    training,
    training_flops,
)

LLAMA = {
    "model_type": "llama", "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
}  # fmt: skip
TIED = {**LLAMA, "tie_word_embeddings": True}
NEOX = {
    "model_type": "gpt_neox", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 100,
}  # fmt: skip


def made(config: dict[str, object]) -> torch.nn.Module:
    """The model itself, with attention as matrix products: torch's counter does not know its own fused one on a CPU."""
    fields = {name: value for name, value in config.items() if name != "model_type"}
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(str(config["model_type"]), **fields), attn_implementation="eager"
    )


def counted(model: torch.nn.Module, rows: Rows, backward: bool) -> int:
    """Operations that torch counts."""
    ids = torch.randint(0, 100, (rows.count, rows.tokens))
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, use_cache=False).logits
        if backward:
            logits.sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("config", [LLAMA, TIED, NEOX], ids=["llama", "tied", "neox"])
@pytest.mark.parametrize("length", [8, 64])
def test_operations_are_those_that_torch_counts(config: dict[str, object], length: int) -> None:
    shape, model = shape_of(config), made(config)
    rows = Rows(3, length, length)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert forward_flops(shape, rows) == counted(model, rows, backward=False)
    assert training_flops(Held(shape), rows) == counted(model, rows, backward=True)


def test_one_layer_by_hand() -> None:
    shape = shape_of({**LLAMA, "num_hidden_layers": 1})
    # q 48x48, k and v 48x24, o 48x48, three of 48x112
    matrices = 2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 112
    assert shape.multiplied == matrices
    assert shape.layer == matrices + 2 * 48
    assert shape.other == 2 * 100 * 48 + 48
    assert shape.layer + shape.other == shape.parameters
    # 10 tokens through the layer, 2 x 48 x 10 x 10 for scores and as much for values, 4 tokens to the vocabulary
    assert forward_flops(shape, Rows(1, 10, 4)) == 2 * 10 * matrices + 2 * 2 * 48 * 100 + 2 * 4 * 48 * 100


def test_adapters_and_recomputation() -> None:
    shape, rows = shape_of(LLAMA), Rows(2, 16, 16)
    forward = forward_flops(shape, rows)
    without_head = forward_flops(shape, Rows(2, 16, 0))
    assert training_flops(Held(shape), rows) == 3 * forward
    assert training_flops(Held(shape, checkpointed=True), rows) == 3 * forward + without_head
    assert training_flops(Held(shape, adapter_rank=4), rows) == 2 * forward


@pytest.mark.parametrize(
    ("rows", "tokens", "max_tokens", "processes", "batches"),
    [
        (8, 10, 40, 1, 2),
        (8, 10, 40, 2, 1),
        (8, 10, 5, 1, 8),
        (3, 10, 1000, 2, 1),
        (1, 10, 1000, 4, 1),
        (9, 10, 30, 2, 2),
    ],
)
def test_micro_batches_of_one_process(rows: int, tokens: int, max_tokens: int, processes: int, batches: int) -> None:
    assert Rows(rows, tokens, 0).micro_batches(max_tokens, processes) == batches


def test_what_processes_exchange() -> None:
    shape = shape_of(LLAMA)
    weights = 4 * shape.parameters
    rows = Rows(8, 16, 16)
    four = Held(shape, processes=4)
    # Two micro-batches of a row each: gathered in both directions, and each time the gradients added up.
    assert training("update", four, rows, 16, 1).exchanged == pytest.approx(2 * 3 * weights * 3 / 4)
    assert reading("log-probs", four, rows, 16).exchanged == pytest.approx(2 * weights * 3 / 4)
    assert training("update", Held(shape), rows, 16, 1).exchanged == 0
    adapters = Held(shape, processes=4, adapter_rank=2)
    assert training("update", adapters, rows, 16, 1).exchanged == pytest.approx(2 * 4 * shape.trained(2) * 3 / 4)
    assert reading("scores", Held(shape, 4, whole=True), rows, 16).exchanged == 0


def test_memory_of_a_process() -> None:
    shape = shape_of(LLAMA)
    whole = divided(Held(shape)).bytes
    assert whole == 16 * shape.parameters
    assert divided(Held(shape, processes=4)).bytes == -(-whole // 4)
    assert gathered(Held(shape)) == 0
    assert gathered(Held(shape, processes=2)) == 4 * (2 * shape.other + 3 * shape.layer)
    assert gathered(Held(shape, processes=2, adapter_rank=2)) == 0


def test_sampling_reads_the_weights_for_each_token() -> None:
    shape = shape_of(LLAMA)
    work = sampling(Held(shape, processes=2), Rows(8, 10, 0), answer=6, at_once=4)
    per_token = 2 * 3 * 2 * 12 * 4  # keys and values of 3 layers, 2 heads of 12, 4 bytes
    assert work.read == 1 * 6 * (4 * shape.parameters + 4 * 13 * per_token)
    assert work.exchanged == pytest.approx(4 * shape.parameters / 2)
    twice = sampling(Held(shape, processes=2), Rows(8, 10, 0), answer=6, at_once=2)
    assert twice.read == 2 * 6 * (4 * shape.parameters + 2 * 13 * per_token)
    # Prompts, then 48 tokens, each by itself with what stands before it.
    prompt = forward_flops(shape, Rows(8, 10, 1))
    attention = 4 * 3 * 48 * 13
    assert work.flops == prompt + 8 * 6 * (2 * shape.multiplied + 2 * 100 * 48 + attention)


def test_bounds_name_what_limits() -> None:
    four = Machine(processes=4, flops=100.0, bandwidth=10.0, interconnect=5.0)
    found = bounds(Work("a", flops=800.0, read=10.0, exchanged=10.0, shared_by=4), four, 0.5)
    assert (found.compute, found.memory, found.network) == (4.0, 1.0, 2.0)
    assert (found.seconds, found.limit) == (4.0, "compute")
    assert bounds(Work("a", 8.0, 10.0, 10.0), four, 0.5).limit == "network"
    # 3 rows keep 3 of 4 processes busy.
    held = Held(shape_of(LLAMA), processes=4)
    assert [training("a", held, Rows(n, 8, 8), 64, 1).shared_by for n in (3, 9)] == [3, 4]
    assert training("a", held, Rows(9, 8, 8), 64, 3).shared_by == 3
    assert bounds(Work("a", 8.0, 10.0, 10.0), Machine(), 0.5).seconds == 0


def test_machines() -> None:
    one = machine("h100x8", 1, 50e9, "bfloat16")
    assert (one.processes, one.memory, one.flops, one.interconnect) == (8, 80e9, 989e12, 450e9)
    several = machine("h100x8", 8, 50e9, "float32")
    assert (several.processes, several.flops, several.interconnect) == (64, 67e12, 50e9)
    assert changed(several, processes=2, memory=None).processes == 2
    assert machine("a100", 1, 50e9, "bfloat16").processes == 1
    with pytest.raises(UserError, match="did you mean 'h100'"):
        machine("h10x8", 1, 50e9, "bfloat16")


@pytest.mark.parametrize(
    ("text", "value"), [("80G", 80e9), ("3.35T", 3.35e12), ("989 t", 989e12), ("12", 12), ("80GB", 80e9)]
)
def test_quantities(text: str, value: float) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "G", "-1G", "8X", "80 Gi"])
def test_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        quantity(text)


def test_what_is_no_model() -> None:
    for config in ({"model_type": "nothing"}, {}, {"model_type": "t5"}):
        with pytest.raises(UserError, match="no config of a causal language model"):
            shape_of(config)
    experts = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    with pytest.raises(UserError, match="experts"):
        shape_of(experts)
    assert isinstance(shape_of(LLAMA), ModelShape)
