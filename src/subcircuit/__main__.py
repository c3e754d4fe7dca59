"""`python -m subcircuit` is the command `subcircuit`."""

from subcircuit.cli import main

main()
