"""An app that needs a secret."""

import os

import modal

app = modal.App("secret")


@app.function(secrets=[modal.Secret.from_name("rules-secret", required_keys=["WORD"])])
def word() -> str:
    return os.environ["WORD"]


@app.local_entrypoint()
def main() -> None:
    print("word", word.remote())
