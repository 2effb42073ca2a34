"""The Triton programs. Shared rules: float32 inside, maxima start at -inf, tails are masked before any reduction, row
offsets are 64-bit, and every sum has a fixed order (no atomics), so that a result is the same each time."""
