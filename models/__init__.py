"""Networks with weights, one folder each. None is shipped yet; `threshold` needs none."""
