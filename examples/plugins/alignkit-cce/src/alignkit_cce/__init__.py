"""Cut cross-entropy (Wijmans et al. 2024) as a kernel component of alignkit."""
