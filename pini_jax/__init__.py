"""Few-shot adaptation of a frozen CLIP by learned noise."""

__version__ = "0.1.0"
