"""Images, built on this machine by their own commands, as the real client sends them, in the roots that Modal uses."""
