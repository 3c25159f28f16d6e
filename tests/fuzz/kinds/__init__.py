"""Generators of cases, one file for each way in which things go wrong."""
