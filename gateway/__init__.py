"""Farebox: a reverse proxy in front of AI APIs that takes the fare."""

__version__ = "0.1.0"
