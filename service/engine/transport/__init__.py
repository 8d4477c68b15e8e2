"""The connection between API processes and the engine: all that the layers above the engine may import."""
