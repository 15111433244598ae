"""Published weights to imgtf's format and back, one file per family. Only names and shapes of tensors change."""
