"""What is compared: tasks, the settings of the peer, ours at the same precision, and targets."""

from dataclasses import dataclass, field
from typing import Any

TRL, TRL_PPO = "trl==1.16.0", "trl==1.12.0"
GENERATE = "transformers"  # no environment of its own
BETAS = (0.9, 0.999)
OPTIMIZER = {"betas": list(BETAS), "eps": 1e-8, "schedule": "constant", "warmup": 0.0}
PLAIN = {"gradient_checkpointing": False}
FLAT = {**PLAIN, "padding_free": True, "max_length": None}


@dataclass(frozen=True)
class Setting:
    """A setting of the peer, with what it is compared with and what the ratio should be."""

    name: str
    precision: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    dtype: str = "float32"
    faster: float | None = None  # our throughput over the peer's, at least
    memory: float | None = None  # our peak over the peer's, at most
    stage: dict[str, Any] = field(default_factory=dict)  # options of our stage that change its memory and speed only

    @property
    def ours(self) -> str:
        """What our side of it is called."""
        return ", ".join([self.precision, *(f"{name} {value}" for name, value in self.stage.items())])


@dataclass(frozen=True)
class Task:
    """One kind of training on both sides."""

    name: str
    script: str
    peer: str
    metric: str
    batch_size: int
    lr: float
    steps: int
    quick_steps: int
    settings: tuple[Setting, ...]
    part: str  # of the data
    warm_up: int = 2
    whole: bool = False  # the rate is that of the whole training, with what precedes its first step
    options: dict[str, Any] = field(default_factory=dict)  # of the peer's script


DEFAULT, PADDING_FREE = "default: bfloat16, gradient checkpointing", "padding-free, no checkpointing"
NO_CHECKPOINTING, FLOAT32 = "no checkpointing", "float32, no checkpointing"
TASKS = {
    task.name: task
    for task in (
        Task(
            "sft", "trl_sft.py", TRL, "tokens/s", 8, 1e-3, 16, 5,
            (
                Setting(DEFAULT, "bfloat16", faster=1.6, memory=0.8),
                Setting(PADDING_FREE, "bfloat16", FLAT, faster=1.1, memory=0.8),
                Setting(FLOAT32, "float32", {**PLAIN, "bf16": False}),
            ),
            "demonstrations",
        ),
        Task(
            "reward", "trl_reward.py", TRL, "tokens/s", 8, 1e-4, 14, 5,
            (
                Setting(DEFAULT, "bfloat16", faster=1.6, memory=0.8),
                Setting(
                    f"{DEFAULT}; ours with micro_batch_tokens: 1024", "bfloat16", faster=1.6, memory=0.8,
                    stage={"micro_batch_tokens": 1024},
                ),
                Setting(NO_CHECKPOINTING, "bfloat16", PLAIN, faster=1.1, memory=0.8),
                Setting(FLOAT32, "float32", {**PLAIN, "bf16": False}),
            ),
            "preferences",
        ),
        Task(
            "dpo", "trl_dpo.py", TRL, "tokens/s", 8, 1e-4, 6, 3,
            (
                Setting(DEFAULT, "bfloat16"),
                Setting(
                    "precomputed reference, no checkpointing", "bfloat16", {**PLAIN, "precompute_ref_log_probs": True}
                ),
            ),
            "preferences", whole=True,
        ),
        Task(
            "grpo", "trl_grpo.py", TRL, "samples/s", 32, 1e-4, 4, 2,
            (
                Setting(DEFAULT, "bfloat16", faster=1.6),
                Setting(NO_CHECKPOINTING, "bfloat16", PLAIN, faster=1.6),
            ),
            "prompts", warm_up=1, options={"group": 8, "length": 64},
        ),
        Task(
            "ppo", "trl_ppo.py", TRL_PPO, "samples/s", 32, 1e-4, 3, 2,
            (
                Setting("default: float32", "float32", faster=1.5),
                Setting(
                    "ACCELERATE_MIXED_PRECISION=bf16", "bfloat16",
                    environment={"ACCELERATE_MIXED_PRECISION": "bf16"}, faster=1.5,
                ),
                Setting("all weights bfloat16", "bfloat16", {"bf16": False}, dtype="bfloat16"),
            ),
            "prompts", warm_up=1,
            options={"length": 64, "epochs": 4, "minibatches": 4, "kl": 0.05, "value_coef": 0.1},
        ),
        Task(
            "sampling", "sampling.py", GENERATE, "tokens/s", 32, 0.0, 6, 3,
            (
                Setting("generate, float32", "float32", faster=3.0),
                Setting("generate, bfloat16 autocast", "bfloat16"),
            ),
            "sampling", warm_up=1, options={"length": 128, "prompt": 32},
        ),
    )
}  # fmt: skip


def stage_of(task: Task) -> dict[str, Any]:
    """Our optimizer stage with the same numbers as the peer."""
    common = {"lr": task.lr, **OPTIMIZER}
    records = {"batch_size": task.batch_size, "epochs": 1, "log_every": 1, "max_length": 256, "max_grad_norm": 1.0}
    if task.name == "sft":
        return {"name": "sft", **common, **records}
    if task.name == "reward":
        return {"name": "reward_model", **common, **records}
    if task.name == "dpo":
        return {"name": "dpo", "beta": 0.1, **common, **records}
    if task.name == "grpo":
        return {"name": "ppo", "epochs": 1, "minibatches": 1, "max_grad_norm": 1.0, **common}
    given = task.options
    # TRL's PPO does not clip gradients, whatever max_grad_norm says.
    return {
        "name": "ppo", "epochs": given["epochs"], "minibatches": given["minibatches"],
        "value_coef": given["value_coef"],
        "max_grad_norm": 1e6, **common,
    }  # fmt: skip


def recipe(task: Task, precision: str, model: str, scorer: str, data: str, output: str) -> dict[str, Any]:
    """Our run of a task: the data step and the one that is measured."""
    format_ = {"sft": "prompt_completion", "reward": "preference", "dpo": "preference"}.get(task.name, "prompts")
    step: dict[str, Any] = {"id": "train", "optimizer_stage": stage_of(task)}
    if task.part == "prompts":
        given = task.options
        step |= {
            "step": "align", "prompts": "@data", "batch_size": task.batch_size, "iterations": task.steps,
            "sampling": {"temperature": 1.0, "max_length": given["length"]},
        }  # fmt: skip
    else:
        step |= {"step": "train", "data": "@data"}
    if task.name == "grpo":
        step |= {
            "advantage": "grpo", "samples_per_prompt": task.options["group"], "kl": {"coef": 0.0},
            "reward_source": {"name": "function", "path": "measured_reward:share_of_e"},
        }  # fmt: skip
    if task.name == "ppo":
        step |= {
            "advantage": {"name": "gae", "lam": 0.95}, "kl": {"coef": task.options["kl"]},
            "reward_source": {"name": "reward_model", "model": scorer},
            "critic_init": scorer, "critic_head": "reward_model",
        }  # fmt: skip
    return {
        "name": f"{task.name}-{precision}", "output": output, "device": "cpu", "precision": precision,
        "checkpoints": {"seconds": None}, "trackers": ["jsonl", "bench_clock"],
        "plugins": {"files": ["clock_tracker.py"]}, "policy": {"name": "causal_lm", "path": model},
        "steps": [{"id": "data", "step": "data", "format": format_, "files": data, "heldout": 0.0}, step],
    }  # fmt: skip
