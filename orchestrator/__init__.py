"""Loads lead files of any size into Adobe Marketo Engage and accounts for every row."""

__version__ = "0.1.0"
