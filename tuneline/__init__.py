"""Tuneline as one package. Its parts are the folders of the repository, linked here, so that nothing else is imported
by a name that a user's own file could have."""

__version__ = "0.1.0"
