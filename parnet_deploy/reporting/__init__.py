"""What reports share: a page of results as data, its three forms of output, and how pictures look."""
