"""The local page: talk to models, compare two, watch the gateway, look at runs. `tuneline ui` serves it."""
