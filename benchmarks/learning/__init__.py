"""A synthetic world that can be seen and heard, and a study of what is learned on it."""
