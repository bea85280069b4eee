"""One module a peer; each has an `ADAPTER`, see `bench.adapter`."""
