"""The built-in commands, one module each; every module has `command`."""
