"""The reward source `human`: judgements that people gave, read from files."""
