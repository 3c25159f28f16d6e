"""One file per kind of contender: how it is prepared, opened and asked. Only what a contender needs is imported."""
