"""What a manifest or an option may ask for at most: far beyond any network, and no attack on memory."""

from typing import Final

# Small enough that products of two fit where libraries keep them.
MAX_WIDTH: Final = 2**20
MAX_BATCH: Final = 2**16
MAX_THREADS: Final = 4096
MAX_EPOCHS: Final = 10_000
# No network takes larger images; what is larger would only ask for all memory.
MAX_SIDE: Final = 8192
