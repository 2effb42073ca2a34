"""TRL's PPOTrainer, as in 1.12, the last release that has it (trl.experimental.ppo).

Its loop is a function of 400 lines without seams, so parts are timed at the functions of its module that it calls.
One batch per update (no accumulation), or its number of minibatches would not be that of optimizer steps.
"""

import json
from pathlib import Path
from typing import Any

from common import METER, arguments, trainer_options, watch


def main() -> None:
    """Train, write what was measured."""
    job = arguments()  # sets ACCELERATE_MIXED_PRECISION where the setting asks for it
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, LlamaModel
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    watch(LlamaModel)
    np.random.seed(0)  # its minibatches are drawn from numpy's generator, which it does not seed
    tokenizer = AutoTokenizer.from_pretrained(job.model, padding_side="left")
    prompts = [json.loads(line) for line in Path(job.prompts).read_text(encoding="utf-8").splitlines()]
    dtype = getattr(torch, job.dtype)
    policy, reference = (AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype) for _ in range(2))
    value, reward = (
        AutoModelForSequenceClassification.from_pretrained(job.scorer, num_labels=1, dtype=dtype) for _ in range(2)
    )
    trainer = PPOTrainer(
        args=PPOConfig(
            total_episodes=job.batch_size * job.steps, response_length=job.length, num_ppo_epochs=job.epochs,
            num_mini_batches=job.minibatches, local_rollout_forward_batch_size=job.batch_size, temperature=1.0,
            kl_coef=job.kl, vf_coef=job.value_coef, gradient_accumulation_steps=1, num_sample_generations=0,
            **trainer_options(job),
        ),
        processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward, value_model=value,
        train_dataset=Dataset.from_list([{"input_ids": tokenizer(row["prompt"]).input_ids} for row in prompts]),
    )  # fmt: skip
    clock = METER.clock
    clock.wrap(ppo_trainer, "batch_generation", "rollout")
    clock.wrap(ppo_trainer, "forward", lambda *_: "forward" if torch.is_grad_enabled() else "reference log-probs")
    clock.wrap(ppo_trainer, "get_reward", lambda model, *_: "score" if model is reward else "values")
    gathered = "loss", "old log-probs"
    clock.wrap(ppo_trainer, "selective_log_softmax", lambda *_: gathered[not torch.is_grad_enabled()])
    clock.wrap(trainer.accelerator, "backward", "backward")
    clock.wrap(trainer.optimizer, "step", "optimizer")
    log = trainer.log

    def logged(metrics: dict[str, Any], *more: Any, **options: Any) -> Any:
        METER.step({k: float(v) for k, v in metrics.items() if isinstance(v, int | float)})
        return log(metrics, *more, **options)

    trainer.log = logged
    METER.begin()
    trainer.train()
    METER.write(job.json)


if __name__ == "__main__":
    main()
