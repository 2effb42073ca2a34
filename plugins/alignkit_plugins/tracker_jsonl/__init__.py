"""Writes a step's metrics to `metrics.jsonl`."""
