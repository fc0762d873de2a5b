"""Other libraries that do a part of the same, measured beside this one."""
