"""What is known about classes and accuracy, and how far it can be trusted."""
