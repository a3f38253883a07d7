"""What the benchmark fuzz is made of: targets by what they decode, mutations, and a process that tries them."""
