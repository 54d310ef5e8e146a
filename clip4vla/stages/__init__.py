"""The stages of the workflow: which files a command reads and writes, and the room that does it."""
