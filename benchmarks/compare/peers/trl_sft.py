"""TRL's SFTTrainer on rows {input_ids, completion_mask}: the loss is that of completions, its default for such data."""

from common import METER, arguments, count_tokens, rows, steps, trainer_options, watch


def main() -> None:
    """Train, write what was measured."""
    job = arguments()
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaModel
    from trl import SFTConfig, SFTTrainer

    watch(LlamaModel)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(job.model, dtype="float32"),
        args=SFTConfig(
            max_steps=job.steps, train_sampling_strategy="sequential", completion_only_loss=True, **trainer_options(job)
        ),
        train_dataset=rows(job),
        processing_class=tokenizer,
        callbacks=[steps()],
    )
    tokens = count_tokens(trainer, tokenizer.pad_token_id)
    trainer.train()
    METER.write(job.json, tokens=tokens)


if __name__ == "__main__":
    main()
