"""Records on disk, and the readers of source files."""
