"""Every program that vLLM TPU would compile at a start, compiled before a chip is rented: `rts compile CONFIG`.

The real engine builds its runner over devices that are only described, and Google's TPU compiler compiles what it would run.
"""
