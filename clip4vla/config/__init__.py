"""The config: what a user writes, checked; what a run reads, resolved. Imports no torch."""
