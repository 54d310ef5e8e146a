"""Model families and what they share. Knows no data."""
