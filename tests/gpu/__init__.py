"""What can be told only on a CUDA device."""
