"""Decoding: from the bytes of an image to the uint8 tensor that a network takes."""
