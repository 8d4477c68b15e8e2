"""The load tests: who calls, what they send, how their number changes, what is measured and what it must reach."""
