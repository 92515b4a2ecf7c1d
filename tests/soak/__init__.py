"""The longer forms of the tests: the same properties with far more cases, round after round, each with a new seed."""
