"""Finds the settings of a model for a latency target by measuring."""
