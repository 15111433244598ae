"""A page on this machine for a model folder: sample, reconstruct, edit, score, watch a run (`imgtf web`)."""
