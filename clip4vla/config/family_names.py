"""The model families, by name. `clip4vla --help` lists them, so this loads no library."""

FAMILIES = {  # name -> package
    "clip4vla": "clip4vla.models.clip4vla",
    "coavt": "clip4vla.models.coavt",
}
DEFAULT = "clip4vla"  # of rows that name none
