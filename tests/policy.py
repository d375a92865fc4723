"""What the policy folder says, read as the gateway reads it."""

from tuneline.endpoints.gateway.key_index import KeyIndex


def find_owner(secret: str) -> str | None:
    """Return the owner of a key, or None if nobody has it."""
    key = KeyIndex().find(secret)
    return key and key.owner
