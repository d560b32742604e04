"""The one error of the builder that a person can do something about."""


class BuildError(Exception):
    """One line that says what failed, where, and what to do; the tool prints it and exits with 1."""
