"""The daemon: loads come in by themselves, for months."""
