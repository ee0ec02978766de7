"""A probe experiment from clips to a report: module, cached embeddings, grid, results, figures."""
