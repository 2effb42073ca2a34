"""The sentiment of completions as a reward for alignkit, by VADER's lexicon and rules."""
