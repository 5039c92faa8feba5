"""The command `adaconv`: `main` finds the subcommand, each of which is a module."""
