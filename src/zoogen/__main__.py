"""`python -m zoogen` is `zoogen`."""

from zoogen.cli import main

main()
