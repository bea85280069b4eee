"""Redis: client, servers, URLs and subscriptions."""
