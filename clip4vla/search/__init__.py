"""Embed a user's own texts, sounds and videos by a checkpoint."""
