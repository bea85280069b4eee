"""Encryption of bodies."""
