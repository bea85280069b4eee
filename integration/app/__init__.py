"""An example of two services, a client and a gateway, as they are put into an image.

``calc`` does sums, ``orders`` calls ``calc``, `integration.app.load` keeps both busy, and
`integration.app.http` makes them reachable over HTTP. All are set up by the environment, see
`integration.app.settings`.
"""
