"""From tasks and judgements to the files of other tools, with a count of what those cannot hold."""
