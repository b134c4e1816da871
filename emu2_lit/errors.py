"""Errors that are meant for the user rather than for a developer."""


class UserError(Exception):
    """The user's input is wrong or refused: says what, where, and what to do. The command exits with 2."""
