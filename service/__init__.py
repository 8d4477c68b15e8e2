"""The server: HTTP and gRPC in front, ONNX Runtime in an engine process behind. Never imports torch or training/."""

__version__ = "0.1.0"  # the only place: the package, the image and the API read it here
