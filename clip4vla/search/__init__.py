"""A checkpoint at work on files of one's own: vectors of texts, sounds and pictures."""
