"""The three ways to look at a live model: the probe, the stream, the weights."""
