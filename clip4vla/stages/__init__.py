"""Stages of the workflow: they map a command's files to the room that does the work."""
