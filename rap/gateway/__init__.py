"""An HTTP and WebSocket gateway to functions; needs the extra ``rap[gateway]``."""

try:
    from rap.gateway.app import create_app
except ModuleNotFoundError as exc:
    missing = (exc.name or "").partition(".")[0]
    if missing != "starlette":
        raise
    raise ImportError(f"rap.gateway needs {missing}: install rap[gateway]", name=missing) from exc

__all__ = ["create_app"]
