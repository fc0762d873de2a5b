"""A trained run behind HTTP: photos of many people are read, batched together and answered, within limits."""
