"""The publisher's side of updates: keys, the signed repository, its releases, and serving them."""
