"""The command `feedback`: bringing judgements in and out, and measuring them."""
