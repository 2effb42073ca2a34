"""TRL's SFTTrainer on rows {input_ids, completion_mask}: the loss is that of completions, its default for such data."""

from common import arguments, train_on_rows, watch


def main() -> None:
    """Train, write what was measured."""
    job = arguments()
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaModel
    from trl import SFTConfig, SFTTrainer

    watch(LlamaModel)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype="float32")
    train_on_rows(job, SFTTrainer, SFTConfig, model, tokenizer, completion_only_loss=True)


if __name__ == "__main__":
    main()
