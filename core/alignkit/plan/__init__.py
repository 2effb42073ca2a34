"""What a recipe's steps take on given machines, computed before anything runs: memory, operations, communication."""
