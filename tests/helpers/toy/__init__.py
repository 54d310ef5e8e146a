"""A third model family in a few dozen lines: a bag of words, and means of pixels and of mel bands."""
