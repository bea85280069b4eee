"""The cases with which gRPC tests that two implementations understand each other, for rap."""
