"""What is compared: the spec, the three forms, the notebook's structures, the reference."""
