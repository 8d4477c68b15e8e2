"""The engine: owns the device, the sessions, the queues and the batches. It knows nothing of HTTP."""
