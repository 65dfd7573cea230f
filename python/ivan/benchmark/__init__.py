"""Time and memory of the network on this machine, against plain PyTorch and other libraries.

`ivan benchmark` and the repository's ``benchmarks/`` are two users of this: both measure with the code here.
"""
