"""Decodes and encodes images outside of the API process, where nothing that a file does can hold up or end others."""
