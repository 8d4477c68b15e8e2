"""ONNX Runtime: devices, sessions and runners."""
