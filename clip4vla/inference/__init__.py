"""A model at work on clips: features, galleries, captions, donors and audio controls."""
