"""The Modal Secrets that `configs/cloud.yaml` turns on, checked before anything starts."""

import modal

from tuneline.configs.cloud import SECRETS, cloud
from tuneline.core.errors import BadRecipe


def require_secrets() -> list[modal.Secret]:
    """Return the Secrets that `configs/cloud.yaml` turns on.

    Raises:
        BadRecipe: a Secret does not exist, or lacks its key.
    """
    return [_require(f"tuneline-{name}", SECRETS[name]) for name in cloud().secrets]


def _require(name: str, key: str) -> modal.Secret:
    secret = modal.Secret.from_name(name, required_keys=[key])
    try:
        secret.hydrate()
    except modal.exception.ConnectionError:
        raise
    except modal.exception.Error as error:
        raise BadRecipe(
            f"configs/cloud.yaml: secrets: {error}. `modal secret create --force {name} --from-json FILE` "
            f'creates it from a file with {{"{key}": "…"}}; '
            f"or remove {name.removeprefix('tuneline-')} from the list"
        ) from None
    return secret
