"""What `benchmarks/quality.py` is made of: plans of data, methods, the training loop, measurement,
presentation."""
