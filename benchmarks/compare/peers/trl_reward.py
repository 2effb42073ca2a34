"""TRL's RewardTrainer on rows {chosen_ids, rejected_ids}."""

from common import arguments, train_on_rows, watch


def main() -> None:
    """Train, write what was measured."""
    job = arguments()
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaModel
    from trl import RewardConfig, RewardTrainer

    watch(LlamaModel)
    tokenizer = AutoTokenizer.from_pretrained(job.scorer)
    model = AutoModelForSequenceClassification.from_pretrained(job.scorer, num_labels=1, dtype="float32")
    train_on_rows(job, RewardTrainer, RewardConfig, model, tokenizer)


if __name__ == "__main__":
    main()
