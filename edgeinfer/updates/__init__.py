"""Model updates: what a node keeps of its models, and which of them is in use."""
