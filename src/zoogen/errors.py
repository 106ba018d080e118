"""The errors that zoogen raises: one small tree, named by what the caller does next.

A message says what failed, where (file, key, member), what was expected, what was found,
and one action. The command line prints the message alone and exits with ``exit_code``.
"""

from __future__ import annotations


class ZoogenError(Exception):
    """Base of every error that zoogen raises on purpose.

    Attributes:
        exit_code: status with which the command line ends (2 usage or config, 3 data or store).
    """

    exit_code: int = 3

    def __str__(self) -> str:
        # KeyError would show the repr of its argument; users get the sentence itself.
        return str(self.args[0]) if self.args else ""


class ConfigError(ZoogenError, ValueError):
    """A config, an override or an argument says something impossible: correct it."""

    exit_code = 2


class NotFoundError(ZoogenError, KeyError):
    """A zoo, a member, a metric or a snapshot that was asked for is not there."""


class ConflictError(ZoogenError):
    """Somebody else holds the zoo, or it belongs to another config: wait or choose another."""


class CorruptZooError(ZoogenError):
    """Stored bytes differ from the manifest: verify, then repair or restore a copy."""


class FormatVersionError(ZoogenError):
    """The zoo was written in a format that this zoogen does not read: upgrade zoogen."""


class DataUnavailableError(ZoogenError):
    """A data set can't be had here; the message lists the steps that place its files."""


class StorageError(ZoogenError, OSError):
    """The file system refused a write (full, read-only): free space or choose another place."""
