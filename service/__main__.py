"""`python -m service`: the same as `hotplate`."""

from service.cli.main import main

main()
