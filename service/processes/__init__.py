"""The processes of a service: the supervisor, the processes it starts, and the health check."""
