"""The protocols of other servers."""
