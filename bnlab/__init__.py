"""bnlab: a command-line laboratory that measures what batch normalization does."""

__version__ = "0.1.0"
