"""The tasks of the service, one folder each, and what they share."""
