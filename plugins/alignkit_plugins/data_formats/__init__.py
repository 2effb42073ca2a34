"""The built-in forms of data rows: text, prompts, demonstrations, preferences, transcripts, labelled texts."""
