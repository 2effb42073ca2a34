"""Shows on stderr how far a step has come."""
