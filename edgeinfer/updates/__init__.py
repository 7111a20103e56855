"""New releases of models: fetched, tried in a process of their own, kept by content, switched and undone."""
