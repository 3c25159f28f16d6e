"""Deploy ParNet: from a checkpoint to engines that answer fast, with the numbers proved at every step."""

__version__ = "0.1.0"
