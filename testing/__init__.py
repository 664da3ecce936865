"""What tests and tools share: peers to compare with, inputs that are hard, checkpoints that are small."""
