"""TRL's RewardTrainer on rows {chosen_ids, rejected_ids}."""

from common import METER, arguments, count_tokens, rows, steps, trainer_options, watch


def main() -> None:
    """Train, write what was measured."""
    job = arguments()
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaModel
    from trl import RewardConfig, RewardTrainer

    watch(LlamaModel)
    tokenizer = AutoTokenizer.from_pretrained(job.scorer)
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(job.scorer, num_labels=1, dtype="float32"),
        args=RewardConfig(max_steps=job.steps, train_sampling_strategy="sequential", **trainer_options(job)),
        train_dataset=rows(job),
        processing_class=tokenizer,
        callbacks=[steps()],
    )
    tokens = count_tokens(trainer, tokenizer.pad_token_id)
    trainer.train()
    METER.write(job.json, tokens=tokens)


if __name__ == "__main__":
    main()
