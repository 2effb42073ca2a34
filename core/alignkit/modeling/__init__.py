"""transformers models behind the Protocols: text encoding, hidden states, scalar heads, model folders."""
