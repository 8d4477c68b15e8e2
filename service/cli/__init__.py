"""The command `hotplate`: one module a group of commands."""
