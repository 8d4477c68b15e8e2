"""One module per task, HTTP-free: bytes and parameters in, tensors out, and back."""
