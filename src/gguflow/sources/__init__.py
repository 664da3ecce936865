"""What can be read: where tensors and configuration come from."""
