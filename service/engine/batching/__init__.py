"""Requests to batches."""
