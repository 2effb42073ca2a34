"""The built-in forms of data rows: texts, prompts, demonstrations, preferences, transcripts, labels."""
