"""The processes of a service: the supervisor, what it starts, and the probe that asks about it."""
