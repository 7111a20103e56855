"""One driver of each kind for edgeinfer: a file per driver, imported when its word is used."""
