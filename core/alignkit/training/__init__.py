"""What every training stage shares: optimizers and schedules, batching, the token-loss loop."""
