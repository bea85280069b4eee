"""Why a registry did not renew a registration: two errors that a `Lease` acts upon."""

from rap.errors import RegistryError

__all__ = ["AddressTaken", "LeaseLost"]


class LeaseLost(RegistryError):
    """The registry no longer knows the registration; the next `register` writes it in full.

    It comes from a registry that many instances lost at once (emptied, failed over with lost
    writes), so whoever sees it waits a random part of a renewal interval first.
    """

    def __init__(self, endpoint_id: str) -> None:
        super().__init__(f"the registry has lost the registration of {endpoint_id}")
        self.endpoint_id = endpoint_id


class AddressTaken(RegistryError):
    """Another living process is registered under the same address.

    Args:
        endpoint_id: The address.
        retry_after: Seconds until the lease of the other runs out, if it does not renew it.
    """

    def __init__(self, endpoint_id: str, retry_after: float) -> None:
        super().__init__(
            f"another process is registered as {endpoint_id}; its lease stands for another "
            f"{retry_after:.1f} s: give each server an address of its own (option advertise)"
        )
        self.endpoint_id = endpoint_id
        self.retry_after = retry_after
