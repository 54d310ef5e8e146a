"""HTML pages of examples: queries of an evaluation, and silent clips with their audio donors."""
