"""Model families and the building blocks that they share."""
