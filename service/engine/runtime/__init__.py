"""ONNX Runtime: sessions, memory and threads."""
