"""`python -m service`: the same as `hotplate`."""

from service.cli import main

main()
