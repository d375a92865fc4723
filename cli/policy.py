"""Changes to what is promoted and to whose keys count."""

import json


def change_policy(on_modal: bool, verb: str, *arguments: str) -> str:
    """Apply a verb of `endpoints.policy` in the policy folder of this machine or of Modal, and return its answer."""
    if on_modal:
        from tuneline.volumes.remote import call_policy

        return call_policy(verb, *arguments)
    from tuneline.core import paths
    from tuneline.endpoints.policy import VERBS
    from tuneline.endpoints.promoting_folders import record_policy_folder

    answer = VERBS[verb](*arguments)
    if verb in ("promote", "rollback"):
        record_policy_folder(paths.run_folder(json.loads(answer)["run"]))
    return answer
