"""The engine process: it owns the device, the queues and the batches, and answers messages of the API processes.

transport/ is all that the layers above import. Inside, imports run downwards:
engine.py -> repository/ (versions on disk and in memory) -> batching/ (requests to batches), generation/ (continuous
batching of text) -> runtime/ (ONNX Runtime) -> transport/ (messages and connections). It knows neither HTTP nor tasks.
"""
