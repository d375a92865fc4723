"""The commands, one file for each group. Help texts are docstrings: what is written there is shown to users.

Nothing heavy is imported before it is needed: `--help` costs typer and rich alone.
"""
