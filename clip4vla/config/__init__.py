"""The config: files of a user, validated, and resolved configs of runs. Imports no torch."""
