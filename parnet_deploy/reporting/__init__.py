"""What reports share: tables in three forms of output, the page that they stand on, and how figures are drawn."""
