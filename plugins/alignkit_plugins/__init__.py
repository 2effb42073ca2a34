"""The built-in plugins. Each folder registers itself through an entry point, like a stranger's package."""
