"""What tests share: tiny models and tokenizers made in memory, without hub access, and a step context without a run."""
