"""Continuous batching of generated text."""
