"""Attacks on a live service, a module a kind; the campaign (`loadtests.hostile`) and `tests/hostile` run the same."""
