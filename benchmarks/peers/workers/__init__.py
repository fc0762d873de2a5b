"""A process of each library, which its own environment runs; the name of a file is that of its library."""
