"""Sends model versions to OCI registries and Hugging Face, and fetches them. Serving never imports it."""
