"""The servers that the benchmark runs beside Hotplate, each one script that serves one classifier."""
