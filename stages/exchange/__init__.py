"""Recipes out to other trainers, their configurations in, and adapters that they made."""
