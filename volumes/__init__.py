"""Tuneline on Modal: Volumes, what happens around a call of a stage, the run over the stages, leases."""
