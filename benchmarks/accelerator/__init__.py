"""What is worth measuring on an accelerator: a file for each phase, in which `measure(scale)` gives its rows."""
