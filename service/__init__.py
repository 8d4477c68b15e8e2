"""The server: HTTP in front, an engine process with ONNX Runtime behind. It never imports torch, nor training/."""

__version__ = "0.1.0"
