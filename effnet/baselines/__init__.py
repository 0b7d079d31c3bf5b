"""Torchvision's convolutional classifiers as baselines to compare EfficientNets with; no torch until one is built."""
