"""TRL's DPOTrainer on rows {prompt, chosen, rejected}: it tokenises them itself."""

from common import METER, arguments, count_tokens, rows, steps, trainer_options, watch


def main() -> None:
    """Train, write what was measured. The reference's pass is inside whatever the setting computes it with."""
    job = arguments()
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaModel
    from trl import DPOConfig, DPOTrainer

    watch(LlamaModel)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(job.model, dtype="float32"),
        args=DPOConfig(max_steps=job.steps, train_sampling_strategy="sequential", beta=0.1, **trainer_options(job)),
        train_dataset=rows(job),
        processing_class=tokenizer,
        callbacks=[steps()],
    )
    tokens = count_tokens(trainer, tokenizer.pad_token_id)
    trainer.train()
    METER.write(job.json, tokens=tokens)


if __name__ == "__main__":
    main()
