"""The command `hotplate`: one module for each command or group of commands."""
