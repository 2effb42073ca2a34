"""Passes without padding give what padded ones give, in values and gradients, or a model stays on padded rows."""

import inspect
import math
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alignkit.batches import Row, TokenBatch
from alignkit.modeling import backbone, flat, flat_trial
from alignkit.modeling.backbone import hidden_states
from alignkit.modeling.flat import NAME, padding_free
from alignkit.modeling.flat_layout import Layout, Segments, segments_of
from alignkit_plugins.policy_causal_lm import lora
from alignkit_plugins.policy_causal_lm.adapter_off import AdapterOff
from alignkit_plugins.policy_causal_lm.config import LoRAConfig

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
SHARED = {**BASE, "num_key_value_heads": 2}
NARROW = {**SHARED, "head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
FLAT: dict[str, dict[str, Any]] = {
    "llama": SHARED,
    "gpt2": {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3},
    "qwen3": {**SHARED, "head_dim": 8},
    "mistral": {**SHARED, "sliding_window": 6},
    "gemma2": {**NARROW, "attn_logit_softcapping": 2.0},
    "gemma3_text": NARROW,
    "gpt_neox": BASE,
    "phi": BASE,
    "mixtral": {**SHARED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**SHARED, "head_dim": 8, "num_experts": 4, **EXPERTS},
    "gpt_oss": {**NARROW, "num_local_experts": 4, "num_experts_per_tok": 2},
}
# What keeps rows padded, in the log; no word where the model takes no positions.
PADDED: dict[str, tuple[dict[str, Any], str | None]] = {
    "mamba": ({"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, None),
    "bloom": ({"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4}, None),
    "gptj": ({**FLAT["gpt2"], "rotary_dim": 4}, "0 of its 2 layers"),
    "lfm2": ({**SHARED, "layer_types": ["conv", "full_attention"]}, "1 of its 2 layers"),
    "falcon_h1": (
        {**SHARED, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8},
        "its states differ",
    ),
}
LENGTHS = (9, 1, 20, 4, 20)


def make(kind: str, config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config)).eval()


def make_batch(lengths: tuple[int, ...] = LENGTHS, pad: int = 0, device: str = "cpu") -> TokenBatch:
    rows = [
        Row([5 + (3 * t + 11 * b) % 90 for t in range(n)], [False] + [True] * (n - 1)) for b, n in enumerate(lengths)
    ]
    return TokenBatch.from_rows(rows, pad, device)


def run(model: Any, batch: TokenBatch, way: Callable[..., Any], **options: Any) -> tuple[Any, dict[str, Any]]:
    """States of the real tokens and gradients of something made of them."""
    model.zero_grad()
    states_NH = way(model, batch, **options)[batch.mask_BT]
    (states_NH.sin() * torch.linspace(-1, 1, states_NH.shape[1], device=states_NH.device)).sum().backward()
    return states_NH.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[1][name], gradient, rtol=tolerance, atol=tolerance * max(1.0, scale), msg=name)


class Counted:
    """Shapes of the ids that a model was run on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, ...]] = []
        monkeypatch.setattr(backbone, "run_backbone", self)

    def __call__(self, model: Any, **arguments: Any) -> Any:
        self.shapes.append(tuple(arguments["input_ids"].shape))
        return model.base_model(**arguments)


@pytest.mark.parametrize("kind", FLAT)
def test_flat_equals_padded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make(kind, FLAT[kind]), make_batch()
    own = model.config._attn_implementation
    expected = run(model, batch, backbone._padded)
    counted = Counted(monkeypatch)
    assert_same(run(model, batch, hidden_states), expected)
    assert counted.shapes[-1] == (1, sum(LENGTHS))
    assert model.config._attn_implementation == own


@pytest.mark.parametrize("kind", PADDED)
def test_other_models_stay_padded(kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    config, reason = PADDED[kind]
    model, batch = make(kind, config), make_batch()
    counted = Counted(monkeypatch)
    flat_trial._told.clear()
    with caplog.at_level("INFO", logger="alignkit"):
        for _ in range(2):
            hidden_states(model, batch)
    assert counted.shapes[-1] == tuple(batch.ids_BT.shape)
    said = [message for message in caplog.messages if "padded rows" in message]
    assert len(said) == (reason is not None)
    assert reason is None or reason in said[0]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "gpt_oss", "qwen3_moe", "falcon_h1"])
def test_weights_of_16_bits_are_tried_out_in_32(kind: str) -> None:
    """Rounding in 16 bits hides a little that one row takes over from the one before it."""
    config = {**FLAT, "falcon_h1": PADDED["falcon_h1"][0]}[kind] | {"initializer_range": 0.02}
    model = make(kind, config).bfloat16()
    before = {name: (p.data_ptr(), p.dtype) for name, p in model.named_parameters()}
    assert hidden_states(model, make_batch()).dtype == torch.bfloat16
    assert (flat_trial._longest[model] > 0) == (kind in FLAT)
    assert {name: (p.data_ptr(), p.dtype) for name, p in model.named_parameters()} == before


def test_a_window_too_wide_to_be_tried_out_leaves_only_longer_rows_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat_trial, "WIDEST_TRIED", 4)
    model = make("mistral", {**SHARED, "sliding_window": 16})
    counted = Counted(monkeypatch)
    hidden_states(model, make_batch((16, 3)))
    hidden_states(model, make_batch((17, 3)))
    assert counted.shapes[-2:] == [(1, 19), (2, 17)]


def test_padding_free_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make("llama", SHARED), make_batch()
    counted = Counted(monkeypatch)
    with padding_free(False):
        hidden_states(model, batch)
    hidden_states(model, batch)
    assert counted.shapes[0] == tuple(batch.ids_BT.shape)
    assert counted.shapes[-1] == (1, sum(LENGTHS))


def test_packed_rows_are_as_many_sequences() -> None:
    model, lengths = make("llama", SHARED), (4, 9, 1, 6)
    alone = make_batch(lengths)
    ids = [row[row_mask].tolist() for row, row_mask in zip(alone.ids_BT, alone.mask_BT, strict=True)]
    rows = [
        Row(
            [*ids[b], *ids[b + 1]],
            [False] * (lengths[b] + lengths[b + 1]),
            [*range(lengths[b]), *range(lengths[b + 1])],
        )
        for b in (0, 2)
    ]
    packed = TokenBatch.from_rows(rows, 0)
    assert segments_of(packed).lengths == lengths
    assert_same(run(model, packed, hidden_states), run(model, alone, backbone._padded))


def test_rows_whose_positions_begin_later_stay_apart() -> None:
    model, ids = make("llama", SHARED), list(range(5, 25))
    rows = [Row(ids[n:], [False] * (20 - n), range(shift, shift + 20 - n)) for n, shift in ((0, 0), (3, 7), (9, 1))]
    batch = TokenBatch.from_rows(rows, 0)
    assert segments_of(batch).lengths == (20, 17, 11)
    alone = [run(model, TokenBatch.from_rows([row], 0), hidden_states)[0] for row in rows]
    torch.testing.assert_close(run(model, batch, hidden_states)[0], torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_padding_may_be_a_real_token() -> None:
    model = make("llama", SHARED)
    expected = run(model, make_batch(), hidden_states)
    assert_same(run(model, make_batch(pad=8), hidden_states), expected, 0)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_layers_that_are_computed_again_see_the_same_segments(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make(kind, FLAT[kind]), make_batch()
    expected = run(model, batch, hidden_states)
    counted = Counted(monkeypatch)
    assert_same(run(model, batch, hidden_states, gradient_checkpointing=True), expected, 0)
    assert counted.shapes == [(1, sum(LENGTHS))]


def test_adapters_and_the_model_without_them() -> None:
    model, batch = make("llama", SHARED), make_batch()
    plain = run(model, batch, backbone._padded)[0]
    lora.inject(model, LoRAConfig(rank=2), 0, "base")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.train()
    expected = run(model, batch, backbone._padded)
    assert not torch.allclose(expected[0], plain)
    assert_same(run(model, batch, hidden_states), expected, 1e-4)
    off = hidden_states(AdapterOff(model), batch)[batch.mask_BT]
    torch.testing.assert_close(off, plain, rtol=1e-5, atol=1e-5)
    assert model.training


def test_a_pass_that_ends_late_does_not_switch_another_threads_attention_back() -> None:
    """A reward source over its time may still be at work in a thread when it is asked again."""
    model, batch = make("llama", SHARED), make_batch()
    own, expected = model.config._attn_implementation, hidden_states(model, batch)
    late, inside = flat.attention_per_segment(model.config, segments_of(batch)), threading.Event()
    go = threading.Event()

    def hang() -> None:
        with late:
            inside.set()
            assert go.wait(30)

    def let_go(*_: Any) -> None:  # between the two layers of this thread's pass
        go.set()
        thread.join(30)

    thread = threading.Thread(target=hang)
    thread.start()
    assert inside.wait(30)
    handle = model.model.layers[1].register_forward_pre_hook(let_go)
    assert torch.equal(hidden_states(model, batch), expected)
    handle.remove()
    assert model.config._attn_implementation == own


@pytest.mark.parametrize("again", [False, True])
def test_an_error_inside_a_pass_leaves_nothing_switched(again: bool) -> None:
    model, batch = make("llama", SHARED), make_batch()
    own, expected = model.config._attn_implementation, hidden_states(model, batch)

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    states = hidden_states(model, batch, gradient_checkpointing=True) if again else None
    handle = model.model.layers[1].mlp.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        hidden_states(model, batch) if states is None else states.sum().backward()
    handle.remove()
    assert model.config._attn_implementation == own
    assert torch.equal(hidden_states(model, batch), expected)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_layers_that_are_computed_again_draw_the_same_dropout(kind: str) -> None:
    config = {"llama": {**SHARED, "attention_dropout": 0.3}, "gpt2": FLAT["gpt2"]}[kind]
    model, batch = make(kind, config), make_batch()
    hidden_states(model, batch)
    model.train()
    torch.manual_seed(1)
    expected = run(model, batch, hidden_states)
    torch.manual_seed(1)
    assert_same(run(model, batch, hidden_states, gradient_checkpointing=True), expected, 0)


def test_memory_that_runs_out_is_no_reason_to_pad(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama", SHARED)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(backbone, "Layout", full)
    with pytest.raises(torch.OutOfMemoryError):
        hidden_states(model, make_batch())
    monkeypatch.undo()
    hidden_states(model, make_batch())
    assert flat_trial._longest[model] == math.inf


def test_attention_dropout_is_passed_on() -> None:
    model, batch = make("llama", {**SHARED, "attention_dropout": 0.5}), make_batch()
    still = hidden_states(model, batch)
    model.train()
    torch.manual_seed(0)
    assert not torch.allclose(hidden_states(model, batch), still)
    assert model.training


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "mistral", "qwen3_moe"])
def test_lower_precision_rounds_lengths_and_no_further(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make(kind, FLAT[kind]), make_batch()
    exact = run(model, batch, hidden_states)
    counted = Counted(monkeypatch)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        padded, flat = (run(model, batch, way)[0] for way in (backbone._padded, hidden_states))
    assert counted.shapes == [tuple(batch.ids_BT.shape), (1, 128)]
    error, usual = ((x - exact[0]).norm() / exact[0].norm() for x in (flat, padded))
    assert float(error) < max(0.03, 1.3 * float(usual))


@pytest.mark.parametrize("kind", FLAT)
def test_rounded_lengths_and_plain_products_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make(kind, FLAT[kind]), make_batch()
    expected = run(model, batch, backbone._padded)
    for module in (flat, backbone):
        monkeypatch.setattr(module, "multiplies_by_onednn", lambda device, dtype: True)
    counted = Counted(monkeypatch)
    assert_same(run(model, batch, hidden_states), expected)
    assert counted.shapes[-1] == (1, 128)


def test_rounded_rows_hold_each_segment_in_a_slot() -> None:
    batch = make_batch((9, 1, 20))
    segments = segments_of(batch)
    layout = Layout(batch, segments, rounded=True)
    assert segments.lengths == (16, 16, 32)
    positions = layout.positions_1N[0].tolist()
    assert positions == [*range(9), *[8] * 7, *[0] * 16, *range(20), *[19] * 12]
    ids = layout.ids_1N[0, :, None].float()
    assert layout.put_back(ids[None])[..., 0][batch.mask_BT].long().tolist() == batch.ids_BT[batch.mask_BT].tolist()


def test_the_switched_attention_needs_no_mask_of_transformers() -> None:
    """transformers makes no mask for an implementation that has no function for masks: what is relied on."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    hidden_states(make("llama", SHARED), make_batch())
    assert NAME not in ALL_MASK_ATTENTION_FUNCTIONS


class OnGpu(torch.Tensor):
    """A tensor of the CPU that says it is on a GPU."""

    device = property(lambda self: torch.device("cuda"))  # type: ignore[assignment]


def varlen_by_the_book(query_NHD: Any, key_NGD: Any, value_NGD: Any, *arguments: Any, **options: Any) -> torch.Tensor:
    """What torch documents for `varlen_attn`, in float32: (left, right) tokens beside the own one are seen."""
    from torch.nn.attention.varlen import varlen_attn

    given = inspect.signature(varlen_attn).bind(query_NHD, key_NGD, value_NGD, *arguments, **options).arguments
    assert given["cu_seq_q"].dtype == given["cu_seq_k"].dtype == torch.int32
    bounds, (left, right) = given["cu_seq_q"].tolist(), given["window_size"]
    assert right == 0
    assert given["max_q"] == given["max_k"] == max(b - a for a, b in pairwise(bounds))
    groups = query_NHD.shape[1] // key_NGD.shape[1]
    assert groups == 1 or given["enable_gqa"]
    parts = []
    for a, b in pairwise(bounds):
        q, k, v = (x[a:b].float().transpose(0, 1) for x in (query_NHD, key_NGD, value_NGD))
        k, v = (x.repeat_interleave(groups, 0) for x in (k, v))
        distance = torch.arange(b - a)[:, None] - torch.arange(b - a)
        seen = (distance >= 0) & ((distance <= left) | (left < 0))
        scores = (q @ k.mT * (given["scale"] or q.shape[-1] ** -0.5)).masked_fill(~seen, -math.inf)
        parts.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(parts).to(query_NHD.dtype)


@pytest.mark.parametrize("window", [None, 1, 6])
@pytest.mark.parametrize("shares_keys", [False, True])
def test_one_kernel_for_all_segments_on_a_gpu(
    shares_keys: bool, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for torch's kernel that takes what that takes and computes what its page says."""
    monkeypatch.setattr(flat, "_varlen_function", lambda: (varlen_by_the_book, shares_keys))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    torch.manual_seed(0)
    plain = [torch.randn(1, sum(LENGTHS), heads, 16).bfloat16().transpose(1, 2) for heads in (4, 2, 2)]
    found = []
    for tensors in (plain, [x.as_subclass(OnGpu) for x in plain]):
        token = flat._segments.set(Segments(LENGTHS, torch.device("cpu")))
        out, _ = flat.segment_attention(None, *tensors, None, sliding_window=window, is_causal=True)
        flat._segments.reset(token)
        found.append(out.as_subclass(torch.Tensor))
    assert found[0].shape == found[1].shape == (1, sum(LENGTHS), 4, 16)
    torch.testing.assert_close(*found, rtol=2e-2, atol=2e-2)


def test_torchs_kernel_is_used_only_where_it_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    for built in (False, True):
        monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda built=built: built)
        assert (flat._varlen_function.__wrapped__()[0] is not None) == built


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", FLAT)
def test_on_a_gpu_in_16_bits_it_is_as_exact_as_padded(kind: str) -> None:
    exact = run(make(kind, FLAT[kind]), make_batch(), backbone._padded)
    model, batch = make(kind, FLAT[kind]).cuda(), make_batch(device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        padded, found = run(model, batch, backbone._padded), run(model, batch, hidden_states)
    assert distance(found[0], exact[0]) < 2 * distance(padded[0], exact[0]) + 1e-3
    for name, gradient in exact[1].items():
        assert distance(found[1][name], gradient) < 2 * distance(padded[1][name], gradient) + 1e-3, name


def distance(x: torch.Tensor, exact: torch.Tensor) -> float:
    """Root of the mean squared error, in units of the exact one's root mean square."""
    return float((x.cpu().double() - exact).norm() / exact.norm())
