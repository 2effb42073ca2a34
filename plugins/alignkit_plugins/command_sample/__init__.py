"""The command `sample`: completions of a model outside a run."""
