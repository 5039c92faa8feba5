"""Packages that only some commands need, and that may be missing."""


class MissingExtra(ValueError):
  """A package is not installed; the message has the command that installs it."""
