"""Networks with weights, one folder each, and the registry that finds and loads them."""
