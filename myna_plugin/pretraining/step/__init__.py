"""One step of training: crops, masking, losses, objective, kernels, optimiser."""
