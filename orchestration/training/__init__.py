"""Training one model with plain PyTorch, on any launcher: Ray Train, torchrun, or one process."""
