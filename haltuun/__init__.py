"""Haltuun takes inherited AWS accounts under management."""

__version__ = "0.1.0"
