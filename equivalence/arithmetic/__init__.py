"""In which numbers a module is run."""
