"""Worker pools: where generations run."""
