"""Benchmarks and load scenarios. They reach the project over HTTP, the `hotplate` command and model files only."""
