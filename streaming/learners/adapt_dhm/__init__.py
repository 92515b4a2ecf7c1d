"""AdaptDHM."""
