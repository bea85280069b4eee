"""The one way to Redis: clients, servers, URLs and subscriptions."""
