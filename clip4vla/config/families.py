"""The model families, by the name that `model.family` gives."""

FAMILIES = {"clip4vla": "clip4vla.models.clip4vla.family"}  # name -> module that defines FAMILY
