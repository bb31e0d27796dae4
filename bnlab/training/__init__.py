"""One run: data, network, loop, record. Everything here may import torch; nothing below does."""
