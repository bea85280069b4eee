"""A shop: two services that call each other."""
