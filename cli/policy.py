"""Changes to what is promoted and to whose keys count."""


def change_policy(on_modal: bool, verb: str, *arguments: str) -> str:
    """Apply a verb of `endpoints.policy` in the policy folder of this machine or of Modal, and return its answer."""
    if on_modal:
        from tuneline.volumes.remote import call_policy

        return call_policy(verb, *arguments)
    from tuneline.endpoints.policy import VERBS

    return VERBS[verb](*arguments)
