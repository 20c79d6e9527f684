"""From a request that knows no dialect to the pieces of its answer."""
