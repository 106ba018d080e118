"""`python -m zoogen` is `zoogen`."""

from zoogen.cli import entry

entry()
