"""What the commands print: one file for each subject, as plain strings or as rich renderables.

A view formats what it is given: it starts nothing, asks no model and writes no file. `plan`, `bases` and the other
views that return strings do not import rich's tables, which take longer to import than a plan takes to make.
"""
