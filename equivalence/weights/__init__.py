"""How weights move: the correspondence table and what follows from it."""
