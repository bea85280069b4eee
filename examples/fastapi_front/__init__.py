"""A web application with FastAPI in front of a service; see ``front.py``."""
