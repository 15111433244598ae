"""How good samples are: distances of distributions, precision and recall, memorisation."""
