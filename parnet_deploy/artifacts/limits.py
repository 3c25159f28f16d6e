"""What a manifest or an option may ask for at most: far beyond any network, and no attack on memory."""

from typing import Final

# Small enough that products of two fit where libraries keep them.
MAX_WIDTH: Final = 2**20
MAX_BATCH: Final = 2**16
MAX_THREADS: Final = 4096
MAX_EPOCHS: Final = 10_000
MAX_WORKERS: Final = 1024
# What a generator of random numbers takes in every library.
MAX_SEED: Final = 2**63 - 1
# Learning rates, decays and tolerances: far above what any training survives and any comparison means.
MAX_FACTOR: Final = 1e6
MAX_IMAGES: Final = 2**24
# LoadGen makes the queries of a run before it begins.
MAX_QUERIES: Final = 10_000_000
MAX_SECONDS: Final = 7 * 86_400
MAX_MILLISECONDS: Final = 1000 * MAX_SECONDS
MAX_MEBIBYTES: Final = 2**24
# No network takes larger images; what is larger would only ask for all memory.
MAX_SIDE: Final = 8192
