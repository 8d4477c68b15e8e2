"""Other ways to paint a photograph, each one script that the benchmark runs as a process of its own."""
