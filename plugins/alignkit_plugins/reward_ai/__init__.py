"""The reward source `ai`: a language model judges (RLAIF)."""
