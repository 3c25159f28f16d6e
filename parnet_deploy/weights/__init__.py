"""Get released weights: where they are, how they are fetched, and that they are what was seen first. No torch."""
