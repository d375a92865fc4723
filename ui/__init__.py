"""The page: talk, compare, watch, runs. `tuneline ui` serves it here, `Page` of app.py on Modal."""
