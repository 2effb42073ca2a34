"""The launcher `ray`: processes on a Ray cluster, through Ray Train."""
