"""LoRA: only the adapter trains, what is saved is the merged model, and saving leaves the model as it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from alignkit.engine.precision import mixed_precision
from alignkit.errors import UserError
from alignkit.loop.logprobs import rollout_logprobs
from alignkit.modeling import folders
from alignkit.records import Prompt, Sampling
from alignkit_plugins.policy_causal_lm.config import CausalLMConfig
from alignkit_plugins.policy_causal_lm.lora import lora_layers
from alignkit_plugins.policy_causal_lm.policy import CausalLM, build_policy
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.commands import alignkit
from helpers.context import make_context
from helpers.models import batch_of, plain_logps, random_rows

LORA = {"rank": 4, "alpha": 8}
KINDS = ["llama", "gpt2"]
LAYERS = {"llama": 2 * 7, "gpt2": 2 * 4}
Build = Callable[..., CausalLM]
Train = Callable[[CausalLM], None]


def state_of(policy: CausalLM) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.module.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains(kind: str, build: Build, train: Train) -> None:
    plain, policy = build(kind), build(kind, lora=LORA)
    ids = random_rows(300, [12])[0].ids
    assert torch.equal(plain_logps(policy, ids), plain_logps(plain, ids))
    assert len(lora_layers(policy.module)) == LAYERS[kind]
    trainable = {n for n, p in policy.module.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * LAYERS[kind]
    assert all(".lora_A." in n or ".lora_B." in n for n in trainable)
    before = state_of(policy)
    train(policy)
    changed = {n for n, tensor in policy.module.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == trainable
    assert float((plain_logps(policy, ids) - plain_logps(plain, ids)).abs().max()) > 0.1


def test_the_adapter_follows_from_the_seed_and_leaves_other_random_numbers_alone(build: Build, tmp_path: Path) -> None:
    first = state_of(build(lora=LORA))
    config = CausalLMConfig(path=str(tmp_path / "base"), lora=LORA)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    again = state_of(build_policy(config, make_context(tmp_path)))
    assert torch.equal(torch.rand(1), expected)
    other = state_of(build_policy(config, make_context(tmp_path, seed=1)))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert {n for n in first if not torch.equal(first[n], other[n])} == {n for n in first if ".lora_A." in n}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_the_merged_model_with_the_adapter_beside_it(
    kind: str, build: Build, train: Train, tmp_path: Path
) -> None:
    policy = build(kind, lora=LORA)
    train(policy)
    before = state_of(policy)
    ids = torch.tensor([random_rows(300, [12])[0].ids])
    logits = policy.module.eval()(ids).logits
    policy.save(tmp_path / "m")
    after = policy.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before), (
        "saving must not round the model that goes on training"
    )
    assert torch.equal(policy.module(ids).logits, logits)

    names = {p.name for p in (tmp_path / "m").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "adapter"} <= names
    merged, info = AutoModelForCausalLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.allclose(merged(ids).logits, logits, atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert not torch.allclose(base(ids).logits, logits, atol=0.05), "a test that training moved the model"
    assert torch.allclose(PeftModel.from_pretrained(base, tmp_path / "m" / "adapter")(ids).logits, logits, atol=1e-5)
    config = json.loads((tmp_path / "m/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")


def test_the_next_step_puts_a_new_adapter_on_the_merged_weights(build: Build, train: Train, tmp_path: Path) -> None:
    policy = build(lora=LORA)
    train(policy)
    policy.save(tmp_path / "m")
    again = build_policy(CausalLMConfig(path=str(tmp_path / "m"), lora=LORA), make_context(tmp_path))
    ids = random_rows(300, [12])[0].ids
    assert torch.allclose(plain_logps(again, ids), plain_logps(policy, ids), atol=1e-4)
    assert not any(bool(p.any()) for n, p in again.module.named_parameters() if ".lora_B." in n)
    assert again.revision == folders.revision(str(tmp_path / "m")) != policy.revision


@pytest.mark.parametrize("kind", KINDS)
def test_the_samplers_log_probs_are_the_trainers(kind: str, build: Build, train: Train, context: Any) -> None:
    policy = build(kind, lora={**LORA, "dropout": 0.5})
    train(policy)
    prompts = [Prompt(prompt="the quiet film"), Prompt(prompt="this")] * 4
    rollout = HFSampler(4).rollout(policy, prompts, Sampling(max_length=8), seed=1)
    logp_BT = rollout_logprobs(policy, rollout, context.ops, 10**6)
    assert rollout.sampler_logp_BT is not None
    assert torch.allclose(rollout.sampler_logp_BT, logp_BT, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_starts_from_the_adapted_model_and_shares_nothing_with_it(
    kind: str, build: Build, train: Train
) -> None:
    policy = build(kind, lora=LORA)
    train(policy)
    critic = policy.critic(None)
    batch = batch_of(policy, random_rows(300, [9, 14]))
    with torch.no_grad():
        h_NH, _ = policy.hidden(batch)
        own_NH = batch.select(critic.module.eval().base_model(batch.ids_BT).last_hidden_state)
    assert torch.allclose(own_NH, h_NH, atol=1e-4)
    assert not lora_layers(critic.module)
    assert all(p.requires_grad for p in critic.module.parameters())
    assert not {p.data_ptr() for p in critic.module.parameters()} & {p.data_ptr() for p in policy.module.parameters()}


def test_adapters_are_float32_on_a_bfloat16_base_and_train_under_autocast(build: Build, tmp_path: Path) -> None:
    policy = build(lora=LORA, dtype="bfloat16")
    kinds = {(p.requires_grad, p.dtype) for p in policy.module.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    batch = batch_of(policy, random_rows(300, [9, 14], seed=5))
    optimizer = torch.optim.AdamW([p for p in policy.module.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    ops = make_context().ops
    with mixed_precision(policy.device, "bfloat16"):
        for _ in range(12):
            h_NH, head = policy.hidden(batch)
            loss = -ops.linear_logprob(h_NH, head, batch.targets_N)[0].mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.3
    assert {p.dtype for p in policy.critic(None).module.parameters()} == {torch.float32}
    policy.save(tmp_path / "m")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert {p.dtype for p in saved.parameters()} == {torch.bfloat16}


def test_an_adapter_on_the_projection_is_refused(build: Build) -> None:
    for kind, name in (("llama", "lm_head"), ("llama", "embed_tokens"), ("gpt2", "wte")):
        with pytest.raises(UserError, match="LoRA on the vocabulary projection"):
            build(kind, lora={**LORA, "target_modules": ["q_proj" if kind == "llama" else "c_attn", name]})


def test_an_unknown_target_module_is_the_users_error(build: Build) -> None:
    with pytest.raises(UserError, match="qq_proj"):
        build(lora={**LORA, "target_modules": ["qq_proj"]})


def test_a_new_model_gets_no_adapter() -> None:
    with pytest.raises(ValidationError, match="lora needs an existing model"):
        CausalLMConfig.model_validate({"init": {"preset": "nano"}, "tokenizer": {"train_on": "@c"}, "lora": LORA})


RECIPE = """
name: lora
policy:
  name: causal_lm
  init: {preset: nano, max_position_embeddings: 128}
  tokenizer: {train_on: "@corpus", vocab_size: 400}
steps:
  - {id: corpus, step: data, format: {name: film_world, rows: 300, prompts: 16, test_prompts: 16}}
  - id: base
    step: train
    optimizer_stage: {name: pretrain, lr: 3e-3, batch_size: 16, block_length: 64, epochs: 1}
    data: "@corpus"
  - id: sft
    step: train
    policy: {name: causal_lm, path: "@base", lora: {rank: 4, alpha: 8}, gradient_checkpointing: true}
    optimizer_stage: {name: sft, lr: 1e-2, batch_size: 32, epochs: 1}
    data: "@corpus"
  - id: more
    step: train
    policy: {name: causal_lm, path: "@sft", lora: {rank: 4, alpha: 8}}
    optimizer_stage: {name: sft, lr: 1e-2, batch_size: 32, epochs: 1}
    data: "@corpus"
"""


def test_a_recipe_fine_tunes_with_lora_step_after_step(tmp_path: Path) -> None:
    (tmp_path / "lora.yaml").write_text(RECIPE)
    alignkit("run", "lora.yaml", cwd=tmp_path)
    run = tmp_path / "runs/lora"
    summary = json.loads((run / "summary.json").read_text())
    assert "sft" in summary
    models = [next(run.glob(f"r1/*-{step}/model")) for step in ("base", "sft", "more")]
    assert [(m / "adapter/adapter_model.safetensors").is_file() for m in models] == [False, True, True]
    base, sft, more = (load_file(m / "model.safetensors") for m in models)
    moved = {n for n in base if not torch.equal(base[n], sft[n])}
    assert moved == {n for n in base if n.endswith("_proj.weight")}
    assert {n for n in base if not torch.equal(sft[n], more[n])} == moved
    alignkit("run", "lora.yaml", cwd=tmp_path)
    assert not list(run.glob("r1/*-more.*")), "a finished step is not run again"
