"""A web application with Flask in front of a service; see ``front.py``."""
