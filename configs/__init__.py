"""Programs that return the config of a run. The first line of each says what for, the next its command."""
