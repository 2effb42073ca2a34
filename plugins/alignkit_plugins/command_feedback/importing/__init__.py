"""From the files of other tools to tasks and judgements."""
