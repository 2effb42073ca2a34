"""TRL's DPOTrainer on rows {prompt, chosen, rejected}: it tokenises them itself."""

from common import arguments, train_on_rows, watch


def main() -> None:
    """Train, write what was measured. The reference's pass is inside whatever the setting computes it with."""
    job = arguments()
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaModel
    from trl import DPOConfig, DPOTrainer

    watch(LlamaModel)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype="float32")
    train_on_rows(job, DPOTrainer, DPOConfig, model, tokenizer, beta=0.1)


if __name__ == "__main__":
    main()
