"""Tables that several benchmarks measure: generated from a seed, or read from a public data set; numpy and pyarrow alone."""
