"""`python -m toolgate`: the same as the command."""

from toolgate.cli import main

main()
