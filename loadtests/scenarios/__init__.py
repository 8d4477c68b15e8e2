"""The load tests on Locust: what users do and send, how many there are, what is measured and what must hold."""
