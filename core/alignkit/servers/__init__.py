"""Servers that speak OpenAI's protocol: their address and key, a client that is bounded, and what a refusal means."""
