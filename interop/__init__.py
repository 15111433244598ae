"""Published weights to our folders and back: one file a family, renaming and reshaping only."""
