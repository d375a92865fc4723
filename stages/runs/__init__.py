"""The runs of a folder as their owner sees them: their state, what they cost, how they differ, what can be removed."""
