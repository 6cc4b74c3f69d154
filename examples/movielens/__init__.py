"""MovieLens-1M: who likes which film, for three age groups."""
