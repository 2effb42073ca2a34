"""TRL's GRPOTrainer: groups of completions, a function as reward, no reference model (beta 0)."""

import json
from pathlib import Path

from common import METER, arguments, steps, trainer_options, watch


def main() -> None:
    """Train, write what was measured."""
    job = arguments()
    from accelerate.optimizer import AcceleratedOptimizer
    from datasets import Dataset
    from measured_reward import share_of_e
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaModel
    from trl import GRPOConfig, GRPOTrainer

    watch(LlamaModel)
    prompts = [json.loads(line) for line in Path(job.prompts).read_text(encoding="utf-8").splitlines()]
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(job.model, dtype="float32"),
        reward_funcs=share_of_e,
        args=GRPOConfig(
            max_steps=job.steps, num_generations=job.group, num_iterations=1, max_completion_length=job.length,
            temperature=1.0, beta=0.0, **trainer_options(job),
        ),
        train_dataset=Dataset.from_list(prompts),
        processing_class=AutoTokenizer.from_pretrained(job.model, padding_side="left"),
        callbacks=[steps()],
    )  # fmt: skip
    clock = METER.clock
    clock.wrap(trainer, "_generate", "rollout")
    clock.wrap(trainer, "_calculate_rewards", "score")
    clock.wrap(trainer, "_generate_and_score_completions", "advantages")
    clock.wrap(trainer, "training_step", "update")
    clock.wrap(trainer, "compute_loss", "loss")
    clock.wrap(trainer.accelerator, "backward", "backward")
    clock.wrap(AcceleratedOptimizer, "step", "optimizer")
    trainer.train()
    METER.write(job.json)


if __name__ == "__main__":
    main()
