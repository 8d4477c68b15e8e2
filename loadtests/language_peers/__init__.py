"""Other engines of the same language model, each one script that the benchmark runs as a process of its own."""
