"""Media: fetch, probe and decode clips, and the ledger that accounts for every one of them."""
