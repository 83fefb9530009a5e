"""What is concluded: the evidence, the verdict, and how the one follows from the other."""
