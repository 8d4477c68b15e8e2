"""`python -m service` is `hotplate`."""

from service.cli.main import main

main()
