"""Simulated short film reviews and a documented true taste over them: the embedded offline demo."""
