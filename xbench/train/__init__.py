"""The trainer of reference models by hybrid batches (arXiv 2408.10536): data, sampling, losses, the loop, studies."""
