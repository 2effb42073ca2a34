"""The reward source `mixed`: a second source judges where the first is unsure."""
