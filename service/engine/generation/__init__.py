"""Text generation: continuous batching of language models."""
